"""Apply a batch of appends. Each request is checked against the result of the requests before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec
from msgspec.structs import force_setattr

from app.domain.log.producer import ProducerStamp, ProducerState, advance, stored_result
from app.domain.log.record import Record
from app.errors.broker_error import BrokerError
from app.errors.log import IdempotencyKeyReused, OffsetMismatch, UnknownTopicOrPartition


def fingerprint(*parts: bytes) -> bytes:
    """Return the SHA-256 of the parts of a request, each with its length before it."""
    digest = sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


KEY_LIFETIME_MS = 24 * 3_600_000


class IdempotencyKey(msgspec.Struct, frozen=True):
    """An Idempotency-Key as it is stored: SHA-256 of the key and of the request.

    Attributes:
        lifetime_ms: How long a repeat is recognized.
    """

    key_hash: bytes
    fingerprint: bytes
    lifetime_ms: int = KEY_LIFETIME_MS


class Append(msgspec.Struct, frozen=True):
    """One request to append records to a topic: all of them or none.

    Attributes:
        version: Version of the topic that the records were checked against.
        partition_ids: Id of each of the topic's partitions, by number.
        records: In request order.
        partitions: The partition chosen for each record.
        stamp_time: Whether every record gets the time of the append (LogAppendTime).
        error: Why the topic's configuration refuses the records; a repeat gets its stored result nevertheless.
        expected_offset: The log end offset that the only partition of the records must have, or None.
        partition_ids_written: Ids of the partitions that the records go to, ascending; computed from the others.
    """

    topic_id: int
    topic: str
    version: int
    partition_ids: tuple[int, ...]
    records: list[Record]
    partitions: list[int]
    stamp_time: bool = False
    expected_offset: int | None = None
    key: IdempotencyKey | None = None
    stamp: ProducerStamp | None = None
    error: BrokerError | None = None
    partition_ids_written: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Compute `partition_ids_written` once: it is read several times."""
        ids, partitions = self.partition_ids, self.partitions
        one = len(partitions) == 1
        written = (ids[partitions[0]],) if one else tuple(sorted([ids[partition] for partition in set(partitions)]))
        force_setattr(self, "partition_ids_written", written)


class Appended(msgspec.Struct, frozen=True, array_like=True):
    """Partition, offset and timestamp of each record, in request order."""

    partitions: list[int]
    offsets: list[int]
    timestamps_ms: list[int]


class Accepted(msgspec.Struct, frozen=True):
    """The records are appended, by this request or by an earlier one that it repeats."""

    appended: Appended
    duplicate: bool


class TopicVersionChanged(msgspec.Struct, frozen=True):
    """The records were checked against another version of the topic: check them again, against the current one."""


AppendOutcome = Accepted | TopicVersionChanged | BrokerError

Row = tuple[int, int, int, bytes | None, bytes | None, bytes | None, int, int]
"""Id, timestamp_ms, encoding, key, value, headers, start_bytes and max_timestamp_ms of a record."""


class PartitionEnd(msgspec.Struct):
    """The end of a partition, where the next record is appended.

    Attributes:
        size_bytes: Bytes of all records ever appended: the `start_bytes` of the next record.
        max_timestamp_ms: Largest timestamp of the records so far.
        first_id: The record id of offset 0; ids rise with the offset.
    """

    topic_id: int
    version: int
    log_end_offset: int
    size_bytes: int
    max_timestamp_ms: int
    first_id: int = 0


class StoredKey(msgspec.Struct, frozen=True):
    """The fingerprint and the result that are stored under an Idempotency-Key."""

    fingerprint: bytes
    result: bytes
    lifetime_ms: int = KEY_LIFETIME_MS


KeyId = tuple[int, bytes]
"""Topic id and key hash."""

KeyRow = tuple[int, bytes, bytes, bytes, int]
"""Topic id, key hash, fingerprint, result and created_at_ms of an Idempotency-Key."""

ProducerId = tuple[str, int]
"""Producer id and topic id."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Appended)


class AppendBatch:
    """The state that a batch of appends reads and changes.

    Args:
        ends: End of each partition that the appends write to, by partition id; a missing one was deleted.
        keys: The used Idempotency-Keys among those of the appends.
        epochs: Highest epoch of each producer on any topic.
        producers: State of each producer per topic.
        now_ms: Time of the append.

    Attributes:
        rows: Rows to insert.
        keys_written: Idempotency-Keys to store.
        producers_written: Producer states to store.
    """

    def __init__(
        self,
        ends: Mapping[int, PartitionEnd],
        keys: Mapping[KeyId, StoredKey],
        epochs: Mapping[str, int],
        producers: Mapping[ProducerId, ProducerState],
        now_ms: int,
    ) -> None:
        self._ends = ends
        self._keys = dict(keys)
        self._epochs = dict(epochs)
        self._producers = dict(producers)
        self._now_ms = now_ms
        self.rows: list[Row] = []
        self.keys_written: dict[KeyId, StoredKey] = {}
        self.producers_written: dict[ProducerId, ProducerState] = {}

    def apply(self, append: Append) -> AppendOutcome:
        """Accept or refuse one request, or return the stored result of a repeat. A refused request changes nothing."""
        try:
            return self._apply(append)
        except BrokerError as error:
            return error

    def _apply(self, append: Append) -> AppendOutcome:
        version = self._topic_version(append)
        if (stored := self._stored_result(append)) is not None:
            return Accepted(_decoder.decode(stored), duplicate=True)
        if version != append.version:
            return TopicVersionChanged()
        if append.error is not None:
            raise append.error
        if append.expected_offset is not None:
            self._check_expected_offset(append, append.expected_offset)
        appended = self._add_rows(append)
        self._store_result(append, appended)
        return Accepted(appended, duplicate=False)

    def _topic_version(self, append: Append) -> int:
        version = -1
        for partition_id in append.partition_ids_written:
            end = self._ends.get(partition_id)
            if end is None or end.topic_id != append.topic_id:
                raise UnknownTopicOrPartition("the topic was deleted")
            version = end.version
        return version

    def _stored_result(self, append: Append) -> bytes | None:
        if append.key is not None:
            stored = self._keys.get((append.topic_id, append.key.key_hash))
            if stored is None:
                return None
            if stored.fingerprint != append.key.fingerprint:
                raise IdempotencyKeyReused(
                    "this Idempotency-Key was used on this topic for another request; use a new key"
                )
            return stored.result
        if append.stamp is not None:
            stamp = append.stamp
            state = self._producers.get((stamp.producer_id, append.topic_id))
            return stored_result(state, self._epochs.get(stamp.producer_id, -1), stamp)
        return None

    def _check_expected_offset(self, append: Append, expected_offset: int) -> None:
        end = self._ends[append.partition_ids[append.partitions[0]]].log_end_offset
        if end != expected_offset:
            raise OffsetMismatch(f"log_end_offset is {end}, not {expected_offset}", log_end_offset=end)

    def _add_rows(self, append: Append) -> Appended:
        """Assign an offset to each record and add its row."""
        ends, ids = self._ends, append.partition_ids
        now_ms, stamp_time, add_row = self._now_ms, append.stamp_time, self.rows.append
        offsets: list[int] = []
        timestamps: list[int] = []
        for record, partition in zip(append.records, append.partitions, strict=True):
            end = ends[ids[partition]]
            timestamp_ms, latest_ms = record.timestamp_ms, end.max_timestamp_ms
            if stamp_time or timestamp_ms < 0:
                timestamp_ms = now_ms
            if timestamp_ms > latest_ms:
                end.max_timestamp_ms = latest_ms = timestamp_ms
            offset, size = end.log_end_offset, end.size_bytes
            key, value, headers = record.key, record.value, record.headers
            add_row((end.first_id + offset, timestamp_ms, record.encoding, key, value, headers, size, latest_ms))
            end.log_end_offset = offset + 1
            if key is not None:
                size += len(key)
            if value is not None:
                size += len(value)
            if headers is not None:
                size += len(headers)
            end.size_bytes = size
            offsets.append(offset)
            timestamps.append(timestamp_ms)
        return Appended(append.partitions, offsets, timestamps)

    def _store_result(self, append: Append, appended: Appended) -> None:
        if append.key is not None:
            key_id = (append.topic_id, append.key.key_hash)
            entry = StoredKey(append.key.fingerprint, _encoder.encode(appended), append.key.lifetime_ms)
            self._keys[key_id] = self.keys_written[key_id] = entry
        if append.stamp is not None:
            producer = (append.stamp.producer_id, append.topic_id)
            state = advance(self._producers.get(producer), append.stamp, _encoder.encode(appended))
            self._producers[producer] = self.producers_written[producer] = state
            self._epochs[append.stamp.producer_id] = append.stamp.epoch


def partition_ids_of(appends: Sequence[Append]) -> list[int]:
    """Return the ids of the partitions that the appends write to, ascending, which is the order of their locks."""
    return sorted(set().union(*[append.partition_ids_written for append in appends]))
