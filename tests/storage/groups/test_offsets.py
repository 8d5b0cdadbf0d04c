"""Stored committed offsets: progress, lag, and deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.groups.group import Group
from app.storage.db import clock
from app.storage.groups import offsets
from app.storage.groups.offsets import Commit
from tests.storage.scribe import NOW_MS, Row, Scribe

if TYPE_CHECKING:
    from app.domain.log.topic import TopicInfo
    from app.storage.db.engine import Storage

GROUP_ID = 5


def commit(scribe: Scribe, info: TopicInfo, partition: int, offset: int, group_id: int = GROUP_ID) -> None:
    one = Commit(info.name, info.topic_id, partition, info.partition_ids[partition], offset, None, "é")
    scribe.storage.write_now(offsets.commit, group_id, [one], NOW_MS)


def test_progress_is_that_of_the_group_in_the_order_of_the_request(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create(partitions=3)
    scribe.append_values(info, b"a", b"b", partition=1)
    commit(scribe, info, 1, 2)
    commit(scribe, info, 1, 1, group_id=6)
    ids = [info.partition_ids[1], 99_999, info.partition_ids[0]]

    found = storage.read_now(offsets.progress, GROUP_ID, ids)

    assert [(one.bounds.partition, one.bounds.log_end_offset, one.committed_offset) for one in found] == [
        (1, 2, 2), (0, 0, None),
    ]  # fmt: skip
    assert [one.committed_at_ms for one in found] == [NOW_MS, None]
    assert storage.read_now(offsets.progress, GROUP_ID, []) == []


def test_an_initial_offset_does_not_replace_a_committed_offset(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create(partitions=2)
    commit(scribe, info, 0, 7)

    storage.write_now(offsets.begin, GROUP_ID, {(info.topic_id, 0): 3, (info.topic_id, 1): 4}, NOW_MS)

    ids = [(info.topic_id, 0), (info.topic_id, 1), (info.topic_id, 2)]
    assert storage.read_now(offsets.committed, GROUP_ID, ids) == {(info.topic_id, 0): 7, (info.topic_id, 1): 4}
    assert storage.read_now(offsets.committed, GROUP_ID, []) == {}


def test_ids_of_partitions_are_found_by_topic_and_number(storage: Storage) -> None:
    scribe = Scribe(storage)
    orders, clicks = scribe.create(partitions=2), scribe.create("clicks")
    asked = {(orders.topic_id, 1), (orders.topic_id, 2), (clicks.topic_id, 0), (999, 0)}

    assert storage.read_now(offsets.partition_ids, asked) == {
        (orders.topic_id, 1): orders.partition_ids[1],
        (clicks.topic_id, 0): clicks.partition_ids[0],
    }


def test_lag_is_not_negative_and_its_age_is_that_of_the_oldest_unread_record(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create(partitions=3)
    now_ms = storage.read_now(clock.read)
    scribe.append(info, [Row(now_ms - 90_000), Row(now_ms - 120_000), Row(now_ms + 60_000)])
    scribe.append(info, [Row(now_ms + 60_000)], 1)
    scribe.delete_before(info, 1)
    commit(scribe, info, 0, 0)
    commit(scribe, info, 1, 0)

    lags = storage.read_now(offsets.lags, GROUP_ID, [])

    assert [(one.committed_offset, one.log_end_offset, one.lag, one.metadata) for one in lags] == [
        (0, 3, 2, "é"), (0, 1, 1, "é"), (None, 0, 0, ""),
    ]  # fmt: skip
    assert [round(one.lag_ms, -4) for one in lags] == [120_000, 0, 0]


def test_offsets_of_deleted_topics_are_deleted_in_batches(storage: Storage) -> None:
    scribe = Scribe(storage)
    gone, kept = scribe.create(partitions=3), scribe.create("clicks")
    for partition in range(3):
        commit(scribe, gone, partition, 0)
    commit(scribe, kept, 0, 0)
    scribe.delete(gone)

    assert [storage.write_now(offsets.delete_of_deleted_topics, 2) for _ in range(3)] == [2, 1, 0]
    assert storage.read_now(offsets.committed, GROUP_ID, [(kept.topic_id, 0)]) == {(kept.topic_id, 0): 0}


def test_a_group_expires_seven_days_after_it_became_empty() -> None:
    week_ms = 604_800_000
    group = Group(group_id=1, name="billing", empty_since_ms=NOW_MS)

    assert not offsets.is_expired(group, NOW_MS + week_ms)
    assert offsets.is_expired(group, NOW_MS + week_ms + 1)
    assert not offsets.is_expired(Group(group_id=1, name="billing"), NOW_MS + 9 * week_ms)
