"""Short functions for tests that write and read a log through the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from app.broker.log import record_deletion
from app.domain.log.append import Accepted, Append, AppendOutcome
from app.domain.log.record import Record
from app.domain.log.topic import TopicConfig
from app.storage.log import offset_lookup, pages, retention, topics
from app.storage.log.appends import append_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.log.record import StoredRecord
    from app.domain.log.topic import TopicInfo
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx
    from app.storage.log.offset_lookup import Extent
    from app.storage.log.pages import Bounds

NOW_MS = 1_700_000_000_000
DEFAULTS = TopicConfig()


class Row(NamedTuple):
    """Timestamp, key, value and headers of a record to append."""

    timestamp_ms: int = NOW_MS
    key: bytes | None = None
    value: bytes | None = b""
    headers: bytes | None = None


class Scribe:
    """One storage, and a clock that the test sets."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.now_ms = NOW_MS

    def create(self, name: str = "orders", partitions: int = 1, **config: Any) -> TopicInfo:
        assert self.storage.write_now(topics.create, name, partitions, config, self.now_ms)
        return self.find(name)

    def find(self, name: str) -> TopicInfo:
        found = self.storage.read_now(topics.find, name, DEFAULTS)
        assert found is not None
        return found.info

    def delete(self, info: TopicInfo) -> None:
        def delete(tx: Tx) -> None:
            assert topics.find_locked(tx, info.name, DEFAULTS) is not None
            topics.delete_(tx, info)

        self.storage.write_now(delete)

    def change(self, info: TopicInfo, partitions: int, **config: Any) -> TopicInfo:
        def change(tx: Tx) -> None:
            assert topics.find_locked(tx, info.name, DEFAULTS) is not None
            topics.change(tx, info, partitions, config)

        self.storage.write_now(change)
        return self.find(info.name)

    def apply(self, *appends: Append) -> list[AppendOutcome]:
        return self.storage.write_now(append_all, list(appends), self.now_ms)

    def append(self, info: TopicInfo, rows: Sequence[Row], partition: int = 0) -> list[int]:
        """Append, and return the offsets."""
        (outcome,) = self.apply(request(info, rows, partition))
        assert isinstance(outcome, Accepted)
        return outcome.appended.offsets

    def append_values(self, info: TopicInfo, *values: bytes, partition: int = 0) -> list[int]:
        return self.append(info, [Row(value=value) for value in values], partition)

    def bounds(self, info: TopicInfo, partition: int = 0) -> Bounds:
        id_ = info.partition_ids[partition]
        return self.storage.read_now(pages.bounds, [id_])[id_]

    def extent(self, info: TopicInfo, partition: int = 0) -> Extent:
        (extent,) = self.storage.read_now(offset_lookup.extents, [info.partition_ids[partition]])
        return extent

    def page(
        self, info: TopicInfo, offset: int, max_records: int = 1000, max_bytes: int = 1 << 20, partition: int = 0
    ) -> list[StoredRecord]:
        def read(tx: Tx) -> list[StoredRecord]:
            id_ = info.partition_ids[partition]
            return pages.read(tx, pages.bounds(tx, [id_])[id_], offset, max_records, max_bytes)

        return self.storage.read_now(read)

    def values(self, info: TopicInfo, partition: int = 0) -> dict[int, bytes | None]:
        """Read all records page by page, and return their values by offset."""
        bounds = self.bounds(info, partition)
        offset, found = bounds.log_start_offset, {}
        while offset < bounds.log_end_offset:
            page = self.page(info, offset, max_records=3, partition=partition)
            assert page, "a page is empty only at the end"
            found.update({record.offset: record.value for record in page})
            offset = page[-1].offset + 1
        return found

    def delete_before(self, info: TopicInfo, offset: int, partition: int = 0) -> bool:
        return self.storage.write_now(retention.delete_before, info.partition_ids[partition], offset)

    def retain(self, info: TopicInfo, **config: Any) -> int:
        retained = [retention.RetainedPartition(id_, info.version, TopicConfig(**config)) for id_ in info.partition_ids]
        starts = self.storage.read_now(retention.new_starts, retained, self.now_ms)
        return sum(self.storage.write_now(retention.delete_before, *start) for start in starts)

    def purge(self, limit: int = 1000) -> int:
        """Purge all rows that are no longer in the log, and return the number of passes."""
        passes = 0
        while self.purge_once(limit):
            passes += 1
        return passes

    def purge_once(self, limit: int) -> bool:
        return self.storage.write_now(record_deletion.purge, limit, 0, ()).more

    def count(self, table: str) -> int:
        def count(tx: Tx) -> int:
            return int(tx.connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())

        return self.storage.read_now(count)


def request(info: TopicInfo, rows: Sequence[Row], partition: int = 0, **options: Any) -> Append:
    """Return the append of rows to one partition."""
    records = [Record(-1, row.timestamp_ms, row.key, row.value, row.headers, 0) for row in rows]
    return Append(
        info.topic_id, info.name, info.version, info.partition_ids, records, [partition] * len(rows), **options
    )
