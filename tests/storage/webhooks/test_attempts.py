"""The attempts of webhooks that are kept, and which records they say have failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.webhooks.webhook import WebhookConfig
from app.storage.webhooks import attempts, webhooks
from app.storage.webhooks.attempts import Attempt, AttemptQuery

if TYPE_CHECKING:
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

CONFIG = WebhookConfig(url="https://example.com", topics=("orders",))
LAST = 2**53


def attempt(offset: int, outcome: str, *, next_at_ms: int | None = None, at_ms: int = 5) -> Attempt:
    return Attempt(0, f"msg_{offset}", "orders", 0, offset, 1, at_ms, 1, outcome, None, None, (), None, next_at_ms)


def create(tx: Tx, *made: Attempt) -> int:
    stored = webhooks.create(tx, "billing", CONFIG, 0)
    assert stored is not None
    attempts.add(tx, [(stored.info.webhook_id, each) for each in made])
    return stored.info.webhook_id


def offsets(tx: Tx, webhook_id: int, **query: Any) -> list[int | None]:
    return [each.offset for each in attempts.list_(tx, webhook_id, AttemptQuery(**query), LAST, 100)]


def test_delivered_attempts_and_others_are_kept_apart(storage: Storage) -> None:
    def run(tx: Tx) -> tuple[list[int | None], list[int | None]]:
        failed = [attempt(offset, "failed") for offset in range(5)]
        webhook_id = create(tx, *failed, *(attempt(offset, "delivered") for offset in range(5, 15)))
        attempts.trim(tx, [webhook_id], 3)
        return offsets(tx, webhook_id), offsets(tx, webhook_id, outcome="failed")

    assert storage.write_now(run) == ([14, 13, 12, 4, 3, 2], [4, 3, 2])


def test_old_attempts_are_deleted_in_parts(storage: Storage) -> None:
    def run(tx: Tx) -> tuple[int, int, list[int | None]]:
        webhook_id = create(tx, *(attempt(offset, "failed", at_ms=offset) for offset in range(6)))
        return attempts.expire(tx, 5, 3), attempts.expire(tx, 5, 3), offsets(tx, webhook_id)

    assert storage.write_now(run) == (3, 2, [5])


def test_attempts_of_a_deleted_webhook_are_dropped(storage: Storage) -> None:
    def run(tx: Tx) -> list[int | None]:
        webhook_id = create(tx, attempt(1, "failed"))
        webhooks.delete_(tx, webhook_id)
        attempts.add(tx, [(webhook_id, attempt(2, "failed"))])
        return offsets(tx, webhook_id)

    assert storage.write_now(run) == []


def test_a_record_has_failed_if_no_attempt_follows_its_last_one(storage: Storage) -> None:
    def run(tx: Tx) -> list[tuple[int, int]]:
        webhook_id = create(
            tx,
            attempt(1, "failed"),
            attempt(2, "failed", next_at_ms=9),
            attempt(2, "delivered"),
            attempt(3, "failed", next_at_ms=9),
            attempt(3, "timed_out"),
            attempt(4, "failed", next_at_ms=9),
            attempt(5, "failed", next_at_ms=9),
            attempt(5, "delivered"),
        )
        attempts.trim(tx, [webhook_id], 100)
        tx.connection.exec_driver_sql("DELETE FROM webhook_attempts WHERE delivered = 1")
        return attempts.failed(tx, webhook_id, "orders")

    assert storage.write_now(run) == [(0, 1), (0, 3)]
