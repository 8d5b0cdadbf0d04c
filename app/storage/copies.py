"""Delayed records of queues, each with a copy in a row of its own; and the records archived last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, delete, exists, func, insert, or_, select

from app.domain.queue import KEYLESS, Entry, Rules, State
from app.domain.record import StoredRecord
from app.storage.engine import Tx
from app.storage.tables import queue_archives, queue_copies, queue_partitions

ARCHIVES_KEPT = 1_000
"""Archived records that are told of, per queue and partition."""

_cells = queue_copies.c
_earlier = queue_copies.alias("earlier")

_COLUMNS = (
    _cells.offset,
    _cells.state,
    _cells.delivery_count,
    _cells.until_ms,
    _cells.key_hash,
    _cells.timestamp_ms,
    _cells.encoding,
    _cells.key,
    _cells.value,
    _cells.headers,
)
_size_of_copy = (
    func.coalesce(func.length(_cells.key), 0)
    + func.coalesce(func.length(_cells.value), 0)
    + func.coalesce(func.length(_cells.headers), 0)
)
_ENTRY = (_cells.offset, _cells.state, _cells.delivery_count, _cells.until_ms, _cells.key_hash)
_OUTLINE = (*_ENTRY, _size_of_copy)
_of_window = (_cells.queue_id == bindparam("queue"), _cells.partition_id == bindparam("partition"))
_takeable = or_(
    _cells.state == State.AVAILABLE,
    and_(_cells.state == State.ACQUIRED, _cells.delivery_count < bindparam("max_delivery_count")),
)
_DUE = (
    select(*_COLUMNS)
    .where(*_of_window, _cells.until_ms <= bindparam("now_ms"), _takeable)
    .order_by(_cells.until_ms, _cells.offset)
    .limit(bindparam("at_most"))
)
_FIRST_OF_KEY = _DUE.where(
    (_cells.key_hash == KEYLESS)
    | ~exists().where(
        _earlier.c.queue_id == _cells.queue_id,
        _earlier.c.partition_id == _cells.partition_id,
        _earlier.c.key_hash == _cells.key_hash,
        _earlier.c.offset < _cells.offset,
    )
)
_LAST = or_(
    _cells.state.in_([State.REJECTED, State.EXHAUSTED]),
    and_(_cells.state == State.ACQUIRED, _cells.delivery_count >= bindparam("max_delivery_count")),
)
_DOOMED = (
    select(*_OUTLINE)
    .where(*_of_window, _cells.until_ms <= bindparam("now_ms"), _LAST)
    .order_by(_cells.until_ms, _cells.offset)
    .limit(bindparam("at_most"))
)
_ARCHIVE_AT = select(func.min(_cells.until_ms)).where(*_of_window, _LAST)
_FREE_AT = select(func.min(_cells.until_ms)).where(*_of_window, _cells.until_ms > bindparam("now_ms"))
_AT = select(*_COLUMNS).where(*_of_window, _cells.offset.in_(bindparam("offsets", expanding=True)))
_OUTLINES = (
    select(*_OUTLINE)
    .where(*_of_window, _cells.offset >= bindparam("from_offset"))
    .order_by(_cells.offset)
    .limit(bindparam("at_most"))
)
_FIRST_OFFSETS = (
    select(_cells.key_hash, func.min(_cells.offset))
    .where(*_of_window, _cells.key_hash.in_(bindparam("hashes", expanding=True)))
    .group_by(_cells.key_hash)
)
_STATES = select(_cells.partition_id, _cells.state, _cells.delivery_count, _cells.until_ms, _cells.timestamp_ms).where(
    _cells.queue_id == bindparam("queue")
)
_TOTAL = select(func.coalesce(func.sum(queue_partitions.c.copies), 0)).where(
    queue_partitions.c.queue_id == bindparam("queue")
)
_REMOVE = delete(queue_copies).where(*_of_window, _cells.offset == bindparam("at"))
_REMOVE_WAITING = delete(queue_copies).where(
    *_of_window, or_(_cells.state == State.AVAILABLE, and_(_takeable, _cells.until_ms <= bindparam("now_ms")))
)
_archive = queue_archives.c
_ARCHIVES = (
    select(_archive.offset, _archive.delivery_count, _archive.reason, _archive.archived_at_ms)
    .where(
        _archive.queue_id == bindparam("queue"),
        _archive.partition_id == bindparam("partition"),
        _archive.offset >= bindparam("from_offset"),
    )
    .order_by(_archive.offset)
    .limit(bindparam("at_most"))
)
_OLDEST_KEPT = (
    select(_archive.archived_at_ms)
    .where(_archive.queue_id == bindparam("queue"), _archive.partition_id == bindparam("partition"))
    .order_by(_archive.archived_at_ms.desc())
    .offset(ARCHIVES_KEPT)
    .limit(1)
)
_FORGET = delete(queue_archives).where(
    _archive.queue_id == bindparam("queue"),
    _archive.partition_id == bindparam("partition"),
    _archive.archived_at_ms <= bindparam("before_ms"),
)


class Copy(NamedTuple):
    """A delayed record: its state and all of it."""

    entry: Entry
    record: StoredRecord


class Outline(NamedTuple):
    """A delayed record's state and the bytes of what there is besides."""

    entry: Entry
    size_bytes: int


class CopyState(NamedTuple):
    """What there is to count of a delayed record."""

    entry: Entry
    timestamp_ms: int


class Archived(NamedTuple):
    """A record that was archived."""

    offset: int
    delivery_count: int
    reason: str
    archived_at_ms: int


class Place(NamedTuple):
    """A queue's window: whose copies are meant."""

    queue_id: int
    partition_id: int

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the statements."""
        return {"queue": self.queue_id, "partition": self.partition_id}


def total(tx: Tx, queue_id: int) -> int:
    """Return how many copies a queue has."""
    return int(tx.connection.execute(_TOTAL, {"queue": queue_id}).scalar_one())


def due(tx: Tx, place: Place, rules: Rules, now_ms: int, limit: int) -> list[Copy]:
    """Return up to `limit` copies that may be delivered now, those due longest first.

    Where the queue is ordered by key, only the first copy of a key.
    """
    found = tx.connection.execute(
        _FIRST_OF_KEY if rules.by_key else _DUE,
        place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [_copy(row) for row in found]


def due_entries(tx: Tx, place: Place, rules: Rules, now_ms: int, limit: int) -> list[Entry]:
    """Return the entries of what `due` returns, without reading the records."""
    found = tx.connection.execute(
        (_FIRST_OF_KEY if rules.by_key else _DUE).with_only_columns(*_ENTRY),
        place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [Entry(*row) for row in found]


def doomed(tx: Tx, place: Place, rules: Rules, now_ms: int, limit: int) -> list[Outline]:
    """Return the outlines of up to `limit` copies that are to be archived now."""
    found = tx.connection.execute(
        _DOOMED,
        place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [_outline(row) for row in found]


def archive_at_ms(tx: Tx, place: Place, rules: Rules) -> int | None:
    """Return when a copy is to be archived, at the earliest, or None."""
    parameters = place.parameters | {"max_delivery_count": rules.max_delivery_count}
    found: int | None = tx.connection.execute(_ARCHIVE_AT, parameters).scalar_one()
    return found


def free_at_ms(tx: Tx, place: Place, now_ms: int) -> int | None:
    """Return when the next copy is free by the passing of time, or None."""
    found: int | None = tx.connection.execute(_FREE_AT, place.parameters | {"now_ms": now_ms}).scalar_one()
    return found


def at(tx: Tx, place: Place, offsets: Iterable[int]) -> dict[int, Copy]:
    """Return the copies at some offsets; those that are not there are missing."""
    found = tx.connection.execute(_AT, place.parameters | {"offsets": list(offsets)})
    return {copy.entry.offset: copy for copy in (_copy(row) for row in found)}


def outlines(tx: Tx, place: Place, from_offset: int, limit: int) -> list[Outline]:
    """Return the outlines of up to `limit` copies in order of their offsets."""
    found = tx.connection.execute(_OUTLINES, place.parameters | {"from_offset": from_offset, "at_most": limit})
    return [_outline(row) for row in found]


def first_offsets(tx: Tx, place: Place, hashes: Iterable[int]) -> dict[int, int]:
    """Return the lowest offset of the copies of each key."""
    wanted = list(set(hashes) - {KEYLESS})
    if not wanted:
        return {}
    found = tx.connection.execute(_FIRST_OFFSETS, place.parameters | {"hashes": wanted})
    return {row[0]: row[1] for row in found}


def states(tx: Tx, queue_id: int) -> dict[int, list[CopyState]]:
    """Return what there is to count of all copies of a queue, by partition id."""
    found: dict[int, list[CopyState]] = {}
    for partition_id, state, count, until_ms, timestamp_ms in tx.connection.execute(_STATES, {"queue": queue_id}):
        found.setdefault(partition_id, []).append(CopyState(Entry(0, state, count, until_ms), timestamp_ms))
    return found


def save(tx: Tx, place: Place, written: Sequence[Copy]) -> None:
    """Store copies, new ones and changed ones."""
    if not written:
        return
    statement = tx.dialect.insert(queue_copies)
    changed = {name: statement.excluded[name] for name in ("state", "delivery_count", "until_ms")}
    tx.connection.execute(
        statement.on_conflict_do_update(index_elements=["queue_id", "partition_id", "offset"], set_=changed),
        [_row(place, copy) for copy in written],
    )


def remove(tx: Tx, place: Place, offsets: Iterable[int]) -> None:
    """Remove copies of records that have ended."""
    if rows := [place.parameters | {"at": offset} for offset in offsets]:
        tx.connection.execute(_REMOVE, rows)


def remove_waiting(tx: Tx, place: Place, rules: Rules, now_ms: int) -> int:
    """Remove the copies that nobody holds and that are not to be archived. Return how many."""
    parameters = place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count}
    return tx.connection.execute(_REMOVE_WAITING, parameters).rowcount


def add_archives(tx: Tx, place: Place, archived: Sequence[Archived]) -> None:
    """Keep what is told of archived records, and forget the oldest of it."""
    if not archived:
        return
    tx.connection.execute(
        insert(queue_archives),
        [{"queue_id": place.queue_id, "partition_id": place.partition_id} | each._asdict() for each in archived],
    )
    before_ms = tx.connection.execute(_OLDEST_KEPT, place.parameters).scalar_one_or_none()
    if before_ms is not None:
        tx.connection.execute(_FORGET, place.parameters | {"before_ms": before_ms})


def archives(tx: Tx, place: Place, from_offset: int, limit: int) -> list[Archived]:
    """Return up to `limit` archived records in order of their offsets."""
    found = tx.connection.execute(_ARCHIVES, place.parameters | {"from_offset": from_offset, "at_most": limit})
    return [Archived(*row) for row in found]


def _copy(row: Sequence[Any]) -> Copy:
    offset, state, delivery_count, until_ms, key_hash, timestamp_ms, encoding, key, value, headers = row
    return Copy(
        Entry(offset, state, delivery_count, until_ms, key_hash),
        StoredRecord(offset, timestamp_ms, encoding, key, value, headers, 0),
    )


def _outline(row: Sequence[Any]) -> Outline:
    return Outline(Entry(*row[:5]), row[5])


def _row(place: Place, copy: Copy) -> Mapping[str, object]:
    entry, record = copy
    return {
        "queue_id": place.queue_id,
        "partition_id": place.partition_id,
        "offset": entry.offset,
        "state": int(entry.state),
        "delivery_count": entry.delivery_count,
        "until_ms": entry.until_ms,
        "key_hash": entry.key_hash,
        "timestamp_ms": record.timestamp_ms,
        "encoding": record.encoding,
        "key": record.key,
        "value": record.value,
        "headers": record.headers,
    }
