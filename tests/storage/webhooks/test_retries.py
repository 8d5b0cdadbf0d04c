"""The stored attempts of records that failed and have not ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.storage.webhooks import retries
from app.storage.webhooks.retries import EXHAUSTED, RecordKey

if TYPE_CHECKING:
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx


def test_the_attempts_of_thousands_of_records_are_found(storage: Storage) -> None:
    keys = [RecordKey(1, partition, offset) for partition in range(8) for offset in range(3_000)]
    with_attempts = keys[::1_000]

    def run(tx: Tx) -> dict[RecordKey, int]:
        retries.save(tx, dict.fromkeys(with_attempts, 2))
        return retries.find(tx, keys)

    assert storage.write_now(run) == dict.fromkeys(with_attempts, 2)


def test_records_that_wait_for_their_end_are_no_retries(storage: Storage) -> None:
    def run(tx: Tx) -> int:
        retries.save(tx, {RecordKey(1, 1, 5): 3, RecordKey(1, 1, 6): EXHAUSTED, RecordKey(2, 1, 5): 1})
        retries.save(tx, {RecordKey(1, 1, 5): 4})
        return retries.count(tx, [1])

    assert storage.write_now(run) == 1


def test_attempts_below_an_offset_are_deleted_in_their_partition_only(storage: Storage) -> None:
    kept = {RecordKey(1, 1, 7): 1, RecordKey(1, 2, 5): 1, RecordKey(2, 1, 5): 1}

    def run(tx: Tx) -> dict[RecordKey, int]:
        retries.save(tx, kept | {RecordKey(1, 1, 5): 1, RecordKey(1, 1, 6): 1})
        retries.remove_below(tx, 1, 1, 7)
        return retries.find(tx, [RecordKey(1, 1, 5), RecordKey(1, 1, 6), *kept])

    assert storage.write_now(run) == kept
