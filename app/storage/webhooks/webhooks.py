"""Webhooks: create, find, list, change, delete; their hidden queues; and what they have delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, func, or_, select, update

from app.domain.access.principal import Principal
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.webhook import WebhookConfig, WebhookInfo
from app.storage.db.row_limits import check_rows
from app.storage.db.tables import queues, topics
from app.storage.db.transaction import Tx
from app.storage.webhooks.tables import webhook_attempts, webhook_replays, webhooks

QUEUE_PREFIX = "webhook:"
"""Begins the names of the queues of webhooks. No client can name such a queue, because names have no colon."""

_columns = webhooks.c
_SELECT = select(
    _columns.webhook_id,
    _columns.name,
    _columns.config,
    _columns.secret,
    _columns.previous_secret,
    _columns.previous_until_ms,
    _columns.headers,
    _columns.version,
    _columns.disabled_reason,
    _columns.disabled_at_ms,
    _columns.breaker,
    _columns.held_until_ms,
    _columns.delivered,
    _columns.filtered,
    _columns.dead_lettered,
    _columns.dropped,
    _columns.last_delivered_at_ms,
    _columns.last_failed_at_ms,
    _columns.holder,
    _columns.epoch,
    _columns.created_at_ms,
    _columns.owner,
    _columns.owner_is_admin,
)
_FIND = _SELECT.where(_columns.name == bindparam("name"))
_FIND_LOCKED = _FIND.with_for_update()
_FIND_HELD = _SELECT.where(_columns.webhook_id == bindparam("id")).with_for_update()
_LIST = _SELECT.where(_columns.name > bindparam("after")).order_by(_columns.name).limit(bindparam("at_most"))
_BY_ID = _SELECT.where(_columns.webhook_id == bindparam("id"))
_VERSIONS = select(_columns.webhook_id, _columns.version, _columns.holder).order_by(_columns.webhook_id)
_HELD = _SELECT.where(_columns.holder == bindparam("node")).order_by(_columns.webhook_id)
_SECRETS = select(_columns.webhook_id).where(or_(_columns.secret.is_not(None), _columns.headers.is_not(None))).limit(1)
_TOPIC_SET = select(func.count(), func.coalesce(func.max(topics.c.topic_id), 0))
_SAVE = (
    update(webhooks)
    .where(_columns.webhook_id == bindparam("id"))
    .values(
        config=bindparam("new_config"),
        secret=bindparam("new_secret"),
        previous_secret=bindparam("new_previous_secret"),
        previous_until_ms=bindparam("new_previous_until_ms"),
        headers=bindparam("new_headers"),
        version=_columns.version + 1,
        disabled_reason=bindparam("new_disabled_reason"),
        disabled_at_ms=bindparam("new_disabled_at_ms"),
        breaker=bindparam("new_breaker"),
        held_until_ms=bindparam("new_held_until_ms"),
        owner=bindparam("new_owner"),
        owner_is_admin=bindparam("new_owner_is_admin"),
    )
)
_SAVE_PROGRESS = (
    update(webhooks)
    .where(_columns.webhook_id == bindparam("id"))
    .values(
        delivered=_columns.delivered + bindparam("more_delivered"),
        filtered=_columns.filtered + bindparam("more_filtered"),
        dead_lettered=_columns.dead_lettered + bindparam("more_dead_lettered"),
        dropped=_columns.dropped + bindparam("more_dropped"),
        last_delivered_at_ms=bindparam("new_last_delivered_at_ms"),
        last_failed_at_ms=bindparam("new_last_failed_at_ms"),
        breaker=bindparam("new_breaker"),
        held_until_ms=bindparam("new_held_until_ms"),
    )
)
_QUEUES = (
    select(queues.c.queue_id, queues.c.name, topics.c.topic_id, topics.c.name.label("topic"))
    .join(topics, topics.c.topic_id == queues.c.topic_id)
    .where(queues.c.name >= bindparam("first"), queues.c.name < bindparam("end"))
    .order_by(queues.c.queue_id)
)
_TABLES = (webhook_attempts, webhook_replays, webhooks)
_DELETES = [delete(table).where(table.c.webhook_id == bindparam("id")) for table in _TABLES]

_configs = msgspec.json.Decoder(WebhookConfig)
_breakers = msgspec.msgpack.Decoder(Breaker)
_encode_config = msgspec.json.Encoder().encode
_encode_breaker = msgspec.msgpack.Encoder().encode


class StoredWebhook(NamedTuple):
    """A webhook with what its row has beside the definition.

    Attributes:
        secret, previous_secret, headers: Encrypted.
        held_until_ms: Nothing is sent before this time, because the receiver asked for a pause.
        holder: The node that works it; None without one.
        owner: The principal whose rights it has, as it was when it made the webhook; None for all rights.
    """

    info: WebhookInfo
    secret: bytes | None
    previous_secret: bytes | None
    previous_until_ms: int
    headers: bytes | None
    version: int
    held_until_ms: int
    delivered: int
    filtered: int
    dead_lettered: int
    dropped: int
    last_delivered_at_ms: int | None
    last_failed_at_ms: int | None
    holder: str | None
    epoch: int
    owner: Principal | None = None


class HiddenQueue(NamedTuple):
    """The queue of a webhook over one topic."""

    queue_id: int
    name: str
    topic_id: int
    topic: str


class Progress(NamedTuple):
    """What has changed by attempts."""

    breaker: Breaker
    held_until_ms: int
    last_delivered_at_ms: int | None
    last_failed_at_ms: int | None
    delivered: int = 0
    filtered: int = 0
    dead_lettered: int = 0
    dropped: int = 0


def queue_name(webhook: str, topic: str) -> str:
    """Return the name of the queue of a webhook over a topic, which dead letters carry."""
    return f"{QUEUE_PREFIX}{webhook}:{topic}"


def find(tx: Tx, name: str) -> StoredWebhook | None:
    """Return the webhook of a name, or None."""
    row = tx.connection.execute(_FIND, {"name": name}).one_or_none()
    return None if row is None else _stored(row)


def find_locked(tx: Tx, name: str) -> StoredWebhook | None:
    """Lock the row of a webhook until the transaction ends, and return the webhook, or None."""
    row = tx.connection.execute(_FIND_LOCKED, {"name": name}).one_or_none()
    return None if row is None else _stored(row)


def find_by_id(tx: Tx, webhook_id: int) -> StoredWebhook | None:
    """Return a webhook by its id, or None."""
    row = tx.connection.execute(_BY_ID, {"id": webhook_id}).one_or_none()
    return None if row is None else _stored(row)


def lock_by_id(tx: Tx, webhook_id: int) -> StoredWebhook | None:
    """Lock the row of a webhook until the transaction ends, and return the webhook, or None."""
    row = tx.connection.execute(_FIND_HELD, {"id": webhook_id}).one_or_none()
    return None if row is None else _stored(row)


def has_webhook_secrets(tx: Tx) -> bool:
    """Return whether a webhook has an encrypted secret, or encrypted headers."""
    return tx.connection.execute(_SECRETS).first() is not None


def list_(tx: Tx, after: str, limit: int) -> list[StoredWebhook]:
    """Return up to `limit` webhooks in order of their names, starting after the name `after`."""
    return [_stored(row) for row in tx.connection.execute(_LIST, {"after": after, "at_most": limit})]


def versions(tx: Tx) -> list[tuple[int, int, str | None]]:
    """Return id, version and holder of every webhook."""
    return [(webhook_id, version, holder) for webhook_id, version, holder in tx.connection.execute(_VERSIONS)]


def held_by(tx: Tx, holder: str) -> list[StoredWebhook]:
    """Return the webhooks that a node works."""
    return [_stored(row) for row in tx.connection.execute(_HELD, {"node": holder})]


def topic_set(tx: Tx) -> tuple[int, int]:
    """Return two numbers that differ after a topic was created or deleted: ids are not used again."""
    number, last_id = tx.connection.execute(_TOPIC_SET).one()
    return number, last_id


def check_limit(tx: Tx, most: int) -> None:
    """Refuse the webhook that this transaction has created, if there are too many now.

    Raises:
        PolicyViolation
    """
    check_rows(tx, webhooks, most)


def create(
    tx: Tx, name: str, config: WebhookConfig, now_ms: int, owner: Principal | None = None
) -> StoredWebhook | None:
    """Create a webhook without secrets, which need its id. Return None if a webhook of this name exists."""
    row = {
        "name": name,
        "config": _encode_config(config).decode(),
        "previous_until_ms": 0,
        "version": 1,
        "breaker": _encode_breaker(Breaker()),
        "held_until_ms": 0,
        "delivered": 0,
        "filtered": 0,
        "dead_lettered": 0,
        "dropped": 0,
        "epoch": 0,
        "created_at_ms": now_ms,
        "owner": None if owner is None else owner.name,
        "owner_is_admin": owner is not None and owner.is_admin,
    }
    made = tx.connection.execute(tx.dialect.insert(webhooks).values(row).on_conflict_do_nothing()).rowcount
    return find_locked(tx, name) if made else None


def save(tx: Tx, stored: StoredWebhook) -> None:
    """Store the definition, the secrets and the state of a webhook, and raise its version."""
    tx.connection.execute(
        _SAVE,
        {
            "id": stored.info.webhook_id,
            "new_config": _encode_config(stored.info.config).decode(),
            "new_secret": stored.secret,
            "new_previous_secret": stored.previous_secret,
            "new_previous_until_ms": stored.previous_until_ms,
            "new_headers": stored.headers,
            "new_disabled_reason": stored.info.disabled_reason,
            "new_disabled_at_ms": stored.info.disabled_at_ms,
            "new_breaker": _encode_breaker(stored.info.breaker),
            "new_held_until_ms": stored.held_until_ms,
            "new_owner": None if stored.owner is None else stored.owner.name,
            "new_owner_is_admin": stored.owner is not None and stored.owner.is_admin,
        },
    )


def save_progress(tx: Tx, webhook_id: int, progress: Progress) -> None:
    """Store what has changed by attempts."""
    tx.connection.execute(
        _SAVE_PROGRESS,
        {
            "id": webhook_id,
            "more_delivered": progress.delivered,
            "more_filtered": progress.filtered,
            "more_dead_lettered": progress.dead_lettered,
            "more_dropped": progress.dropped,
            "new_last_delivered_at_ms": progress.last_delivered_at_ms,
            "new_last_failed_at_ms": progress.last_failed_at_ms,
            "new_breaker": _encode_breaker(progress.breaker),
            "new_held_until_ms": progress.held_until_ms,
        },
    )


def hidden_queues(tx: Tx, webhook: str) -> list[HiddenQueue]:
    """Return the queues of a webhook in order of their ids."""
    first = queue_name(webhook, "")
    found = tx.connection.execute(_QUEUES, {"first": first, "end": first[:-1] + ";"})
    return [HiddenQueue(*row) for row in found]


def delete_(tx: Tx, webhook_id: int) -> None:
    """Delete a webhook, its attempts and replays; its queues are deleted before."""
    for statement in _DELETES:
        tx.connection.execute(statement, {"id": webhook_id})


def _stored(row: Sequence[Any]) -> StoredWebhook:
    (
        webhook_id,
        name,
        config,
        secret,
        previous_secret,
        previous_until_ms,
        headers,
        version,
        disabled_reason,
        disabled_at_ms,
        breaker,
        held_until_ms,
        *counts,
        created_at_ms,
        owner,
        owner_is_admin,
    ) = row
    info = WebhookInfo(
        webhook_id,
        name,
        _configs.decode(config),
        disabled_reason,
        disabled_at_ms,
        _breakers.decode(breaker),
        created_at_ms,
    )
    stored = StoredWebhook(info, secret, previous_secret, previous_until_ms, headers, version, held_until_ms, *counts)
    return stored if owner is None else stored._replace(owner=Principal(owner, owner_is_admin))
