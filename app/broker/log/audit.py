"""The audit topic: changes in their transaction, and what was refused, together, once a minute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from app.broker.log.system_topics import append_to_system_topic
from app.broker.waiting.signals import Signals
from app.domain.access.audit import AuditRecord
from app.domain.access.principal import Principal
from app.domain.log.record import VALUE_JSON, Record
from app.storage.db.engine import Storage, after_write
from app.storage.db.transaction import Tx

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIT_TOPIC = "__audit"
_RETENTION = {"retention_ms": 90 * 86_400_000}
_INTERVAL_MS = 60_000
_MOST_KEYS = 1_000
"""Refusals are counted for so many principals and reasons; further ones are counted together."""
_OTHERS = "(others)"
_encode = msgspec.json.Encoder().encode


def append_audit(tx: Tx, records: list[AuditRecord]) -> tuple[int, ...]:
    """Append records to the audit topic. By the lock order, call it last in a transaction."""
    encoded = [Record(-1, -1, each.principal.encode(), _encode(each), None, VALUE_JSON) for each in records]
    return append_to_system_topic(tx, AUDIT_TOPIC, encoded, dict(_RETENTION))


class Audit:
    """Records the changes and the refusals of this node.

    Args:
        clock: Wall clock in milliseconds.
    """

    def __init__(self, storage: Storage, signals: Signals, clock: Callable[[], int]) -> None:
        self._storage = storage
        self._signals = signals
        self._clock = clock
        self._refused: dict[tuple[str, str], AuditRecord] = {}
        self._written_at_ms: dict[tuple[str, str], int] = {}

    @contextmanager
    def recording(self, describe: Callable[[int], AuditRecord]) -> Iterator[None]:
        """Append a record in each write transaction of this context.

        Args:
            describe: Returns the record; it is called with the time, at the end of a transaction.
        """
        appended: tuple[int, ...] = ()

        def append(tx: Tx) -> None:
            nonlocal appended
            appended = append_audit(tx, [describe(self._clock())])

        token = after_write.set(append)
        try:
            yield
        finally:
            after_write.reset(token)
            if appended:
                self._signals.announce(appended)

    def note_refusal(self, principal: Principal, address: str, operation: str, code: str) -> None:
        """Count a refused request."""
        who = principal.name, code
        found = self._refused.get(who)
        if found is None:
            if len(self._refused) >= _MOST_KEYS:
                who = _OTHERS, code
                found = self._refused.get(who)
            if found is None:
                found = AuditRecord(type="refusal", at_ms=0, principal=who[0], operation="", reason=code, count=0)
        self._refused[who] = msgspec.structs.replace(
            found,
            at_ms=self._clock(),
            operation=operation,
            key_id=principal.key_id,
            address=address,
            count=found.count + 1,
        )

    async def store_refusals(self) -> bool:
        """Append what was refused, of a principal and reason once a minute. Return False: no more to do now."""
        if not self._refused:
            return False
        now_ms = self._clock()
        due = [who for who in self._refused if now_ms - self._written_at_ms.get(who, 0) >= _INTERVAL_MS]
        if not due:
            return False
        records = [self._refused[who] for who in due]
        self._signals.announce(await self._storage.write(append_audit, records))
        for who, record in zip(due, records, strict=True):
            self._written_at_ms[who] = now_ms
            present = self._refused[who]
            if present.count == record.count:
                del self._refused[who]
            else:
                self._refused[who] = msgspec.structs.replace(present, count=present.count - record.count)
        if len(self._written_at_ms) > _MOST_KEYS:
            self._written_at_ms = {who: at_ms for who, at_ms in self._written_at_ms.items() if who in self._refused}
        return False
