"""Rows of delayed records; of each key only the first is not marked `blocked_by_key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings

from app.domain.log.record import StoredRecord
from app.domain.queues.in_flight import DeliveryRules, InFlightRecord, RecordState
from app.domain.queues.record_summary import KEYLESS
from app.storage.db import schema
from app.storage.queues import delayed_changes, delayed_records
from app.storage.queues.delayed_records import DelayedRecord
from app.storage.queues.share_partitions import SharePartitionKey

if TYPE_CHECKING:
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

KEY = SharePartitionKey(7, 3)
BY_KEY = DeliveryRules(lock_duration_ms=1_000, max_delivery_count=5, by_key=True)
NOW_MS = 1_000
UNTILS = st.sampled_from([0, NOW_MS, NOW_MS + 1])
RECORDS = st.dictionaries(st.integers(0, 12), st.tuples(st.sampled_from([KEYLESS, 11, 22]), UNTILS), max_size=6)
STEPS = st.lists(st.tuples(RECORDS, st.sets(st.integers(0, 12)), st.booleans()), min_size=1, max_size=6)


def delayed(offset: int, key_hash: int, until_ms: int, state: RecordState = RecordState.AVAILABLE) -> DelayedRecord:
    return DelayedRecord(
        InFlightRecord(offset, state, int(state), until_ms, key_hash), StoredRecord(offset, 1, 0, None, b"1", None, 0)
    )


def stored_marks(tx: Tx) -> dict[int, int]:
    statement = f'SELECT "offset", blocked_by_key FROM delayed_records WHERE queue_id = {KEY.queue_id}'
    return {row[0]: row[1] for row in tx.connection.exec_driver_sql(statement)}


def expected_marks(entries: dict[int, InFlightRecord]) -> dict[int, int]:
    """Return `blocked_by_key` of each offset."""
    return {
        offset: int(
            any(other.key_hash == entry.key_hash != KEYLESS and other.offset < offset for other in entries.values())
        )
        for offset, entry in entries.items()
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(steps=STEPS)
def test_all_records_of_a_key_except_the_first_are_blocked(
    storage: Storage, steps: list[tuple[dict[int, tuple[int, int]], set[int], bool]]
) -> None:
    def run(tx: Tx) -> None:
        tx.connection.exec_driver_sql("DELETE FROM delayed_records")
        entries: dict[int, InFlightRecord] = {}
        for written, ended, purged in steps:
            new = [
                delayed(offset, entries[offset].key_hash if offset in entries else key_hash, until_ms)
                for offset, (key_hash, until_ms) in written.items()
            ]
            delayed_records.save(tx, KEY, new)
            entries |= {each.entry.offset: each.entry for each in new}
            assert stored_marks(tx) == expected_marks(entries)
            removed = {offset: entries.pop(offset).key_hash for offset in ended if offset in entries}
            delayed_records.remove(tx, KEY, removed)
            assert stored_marks(tx) == expected_marks(entries)
            first = {offset for offset, mark in expected_marks(entries).items() if not mark}
            due = [each.entry for each in delayed_records.due(tx, KEY, BY_KEY, NOW_MS, 100)]
            assert due == sorted(
                (entries[offset] for offset in first if entries[offset].until_ms <= NOW_MS),
                key=lambda entry: (entry.until_ms, entry.offset),
            )
            found = delayed_records.totals(tx, KEY, NOW_MS)
            assert found.available == sum(entry.until_ms <= NOW_MS for entry in entries.values())
            assert found.available + found.delayed == len(entries)
            if purged:
                assert delayed_changes.purge(tx, KEY, BY_KEY, NOW_MS) == (len(entries), 0)
                entries.clear()

    storage.write_now(run)


def test_a_purge_unblocks_records_whose_first_was_deleted(storage: Storage) -> None:
    def run(tx: Tx) -> None:
        delayed_records.save(
            tx, KEY, [delayed(1, 11, 0), delayed(2, 22, 0, RecordState.REJECTED), delayed(3, 22, 0), delayed(4, 11, 0)]
        )
        delayed_records.save(tx, KEY, [delayed(5, 11, NOW_MS + 1, RecordState.ACQUIRED)])
        assert stored_marks(tx) == {1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
        assert delayed_changes.purge(tx, KEY, BY_KEY, NOW_MS) == (3, 0)
        assert stored_marks(tx) == {2: 0, 5: 0}

    storage.write_now(run)


def test_the_migration_marks_existing_records(storage: Storage) -> None:
    def run(tx: Tx) -> None:
        delayed_records.save(
            tx, KEY, [delayed(offset, key_hash, 0) for offset, key_hash in [(1, 0), (2, 0), (3, 11), (4, 11)]]
        )
        config = Config()
        config.set_main_option("script_location", str(schema.migrations_path()))
        config.attributes["connection"] = tx.connection
        command.downgrade(config, "0003")
        command.upgrade(config, "head")
        assert stored_marks(tx) == {1: 0, 2: 0, 3: 0, 4: 1}

    storage.write_now(run)
