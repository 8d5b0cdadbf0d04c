"""The log against a model: append, read, delete, retain, compact and purge in any order."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import structs

from app.domain.log.topic import TopicConfig
from app.storage.db.opening import open_storage
from app.storage.log import compaction, offset_lookup, retention
from tests.storage.scribe import Row, Scribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.log.record import StoredRecord
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx
    from app.storage.log.pages import Bounds

NAMES = count(1)
TIMES = st.integers(0, 1000)
KEYS = st.sampled_from([None, b"", b"a", b"b", b"c"])
ROWS = st.lists(
    st.builds(
        Row,
        timestamp_ms=TIMES,
        key=KEYS,
        value=st.none() | st.binary(max_size=8),
        headers=st.sampled_from([None, b"[]", b"[1234]"]),
    ),
    min_size=1,
    max_size=8,
)


class Model:
    """The records of a partition by offset."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.start = 0
        self.end = 0
        self.cleaned = 0
        self.latest: dict[bytes, tuple[int, int | None]] = {}
        """By key below `cleaned`: the offset, and for a tombstone the time of the first pass that read it."""

    @property
    def last_offset(self) -> int:
        return self.end - 1

    def append(self, rows: list[Row]) -> list[int]:
        offsets = list(range(self.end, self.end + len(rows)))
        self.rows.update(zip(offsets, rows, strict=True))
        self.end += len(rows)
        return offsets

    def present(self, start: int) -> list[tuple[int, Row]]:
        return [(offset, row) for offset, row in sorted(self.rows.items()) if offset >= start]

    def page(self, start: int, max_records: int, max_bytes: int) -> list[tuple[int, Row]]:
        page: list[tuple[int, Row]] = []
        for offset, row in self.present(start)[:max_records]:
            max_bytes -= size(row)
            if page and max_bytes < 0:
                break
            page.append((offset, row))
            if max_bytes <= 0:
                break
        return page

    def size_from(self, start: int) -> int:
        return sum(size(row) for _, row in self.present(start))

    def offset_for_time(self, timestamp_ms: int) -> int:
        return next((o for o, row in self.present(self.start) if row.timestamp_ms >= timestamp_ms), self.end)

    def offset_for_size(self, keep_bytes: int) -> int:
        reaching = [offset for offset, _ in self.present(self.start) if self.size_from(offset) >= keep_bytes]
        return max(reaching, default=self.start)

    def delete_before(self, offset: int) -> None:
        self.start = max(self.start, offset)
        self.rows = dict(self.present(self.start))

    def compact(self, now_ms: int, delete_retention_ms: int, lag_ms: int) -> None:
        for key, (offset, seen_at_ms) in list(self.latest.items()):
            if seen_at_ms is not None and seen_at_ms <= now_ms - delete_retention_ms and offset != self.last_offset:
                self.rows.pop(offset, None)
                del self.latest[key]
        for offset, row in self.present(max(self.cleaned, self.start)):
            is_last_without_key = row.key is None and offset == self.last_offset
            if row.timestamp_ms > now_ms - lag_ms or is_last_without_key:
                break
            self.cleaned = offset + 1
            if row.key is None:
                self.rows.pop(offset)
                continue
            if row.key in self.latest:
                self.rows.pop(self.latest[row.key][0], None)
            self.latest[row.key] = (offset, now_ms if row.value is None else None)


def size(row: Row) -> int:
    return len(row.key or b"") + len(row.value or b"") + len(row.headers or b"")


def rows_of(page: list[StoredRecord]) -> list[tuple[int, Row]]:
    return [(r.offset, Row(r.timestamp_ms, r.key, r.value, r.headers)) for r in page]


class Log(RuleBasedStateMachine):
    """One topic of two partitions. Only appends may change the second one, the bystander."""

    def __init__(self, open_again: Callable[[], Storage], storage: Storage) -> None:
        super().__init__()
        self.open_again = open_again
        self.scribe = Scribe(storage)
        self.model, self.bystander = Model(), Model()
        self.clock_ms = 1000
        self.compacted = False

    @initialize()
    def create(self) -> None:
        self.info = self.scribe.create(f"t{next(NAMES)}", 2)

    @rule(rows=ROWS, elsewhere=st.booleans())
    def append(self, rows: list[Row], elsewhere: bool) -> None:
        model = self.bystander if elsewhere else self.model

        assert self.scribe.append(self.info, rows, int(elsewhere)) == model.append(rows)

    @rule(data=st.data(), max_records=st.integers(1, 9), max_bytes=st.integers(1, 60))
    def read_a_page(self, data: st.DataObject, max_records: int, max_bytes: int) -> None:
        offset = data.draw(st.integers(self.model.start, self.model.end))

        found = rows_of(self.scribe.page(self.info, offset, max_records, max_bytes))

        expected = self.model.page(offset, max_records, max_bytes)
        if self.compacted:  # a page over gaps may end early, but not before its first record
            assert found == expected[: max(1, len(found))]
        else:
            assert found == expected

    @rule(timestamp_ms=TIMES)
    def find_a_time(self, timestamp_ms: int) -> None:
        assert self.ask(offset_lookup.offset_for_time, timestamp_ms) == self.model.offset_for_time(timestamp_ms)

    @rule(keep_bytes=st.integers(1, 100))
    def find_a_size(self, keep_bytes: int) -> None:
        assert self.ask(offset_lookup.offset_for_size, keep_bytes) == self.model.offset_for_size(keep_bytes)

    @rule(data=st.data())
    def delete_before(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.model.end))

        assert self.scribe.delete_before(self.info, offset) == (offset > self.model.start)
        self.model.delete_before(offset)

    @rule(retention_ms=st.sampled_from([-1, 0, 300, 900]), retention_bytes=st.sampled_from([-1, 1, 20, 60]))
    def retain(self, retention_ms: int, retention_bytes: int) -> None:
        kept = TopicConfig(retention_ms=retention_ms, retention_bytes=retention_bytes)
        by_time = self.model.offset_for_time(self.clock_ms - retention_ms) if retention_ms >= 0 else 0
        by_size = self.model.offset_for_size(retention_bytes) if retention_bytes >= 0 else 0

        retained = retention.RetainedPartition(self.info.partition_ids[0], self.info.version, kept)
        storage = self.scribe.storage
        for start in storage.read_now(retention.new_starts, [retained], self.clock_ms):
            storage.write_now(retention.delete_before, *start)

        if self.model.start < self.model.end:
            self.model.delete_before(max(by_time, by_size))

    @rule(limit=st.sampled_from([1, 3, 100]), passes=st.integers(1, 4))
    def purge(self, limit: int, passes: int) -> None:
        for _ in range(passes):
            self.scribe.purge_once(limit)

    @rule(
        later_ms=st.sampled_from([0, 50, 500]),
        delete_retention_ms=st.sampled_from([1, 100]),
        lag_ms=st.sampled_from([0, 0, 600]),
        limit=st.sampled_from([1, 2, 100]),
    )
    def compact(self, later_ms: int, delete_retention_ms: int, lag_ms: int, limit: int) -> None:
        self.clock_ms += later_ms
        config = TopicConfig(
            cleanup_policy="compact", delete_retention_ms=delete_retention_ms, min_compaction_lag_ms=lag_ms
        )
        compacted, id_ = structs.replace(self.info, config=config), self.info.partition_ids[0]
        while self.scribe.storage.write_now(compaction.compact, id_, compacted, self.clock_ms, limit):
            pass
        self.model.compact(self.clock_ms, delete_retention_ms, lag_ms)
        self.compacted = True

    @rule()
    def reopen(self) -> None:
        self.scribe.storage.close()
        self.scribe.storage = self.open_again()

    @invariant()
    def bounds_and_sizes_are_exact(self) -> None:
        if hasattr(self, "info"):
            for number, model in enumerate((self.model, self.bystander)):
                assert self.scribe.extent(self.info, number)[1:] == (model.start, model.end, model.size_from(0))

    def teardown(self) -> None:
        if hasattr(self, "info"):
            for number, model in enumerate((self.model, self.bystander)):
                assert self.scribe.values(self.info, number) == {o: row.value for o, row in model.present(0)}

    def ask(self, query: Callable[[Tx, Bounds, int], int], value: int) -> int:
        bounds = self.scribe.bounds(self.info)
        return self.scribe.storage.read_now(query, bounds, value)


@pytest.fixture
def opened(migrated_url: str) -> Callable[[], Storage]:
    """A function that opens the same database. The test closes what it opens."""
    return lambda: open_storage(migrated_url)


def test_the_log_equals_the_model_after_any_operations(opened: Callable[[], Storage]) -> None:
    last = [opened()]
    examples = 25 if last[0].dialect.shared else 60  # an operation on PostgreSQL takes several times as long

    def open_again() -> Storage:
        last[0] = opened()
        return last[0]

    try:
        run_state_machine_as_test(
            lambda: Log(open_again, last[0]),  # type: ignore[arg-type]  # hypothesis calls it
            settings=settings(max_examples=examples, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
        )
    finally:
        last[0].close()
