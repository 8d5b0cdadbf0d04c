"""Topics in the database: rows belong to the id of a topic, not to its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from app.domain.log.append import Accepted, IdempotencyKey, TopicVersionChanged
from app.domain.log.producer import ProducerStamp
from app.domain.log.topic import TopicConfig
from app.errors.log import UnknownTopicOrPartition
from app.storage.log import compaction, idempotency, producers, topics
from tests.storage.scribe import DEFAULTS, NOW_MS, Row, Scribe, request

if TYPE_CHECKING:
    from app.storage.db.engine import Storage

KEY = IdempotencyKey(b"k" * 32, b"f" * 32)
DAY_MS = 86_400_000


@pytest.fixture
def scribe(storage: Storage) -> Scribe:
    return Scribe(storage)


def stamp(sequence: int, epoch: int = 0) -> ProducerStamp:
    return ProducerStamp("checkout", epoch, sequence, b"f")


def test_a_topic_created_twice_is_created_once(scribe: Scribe) -> None:
    created = scribe.storage.write_now(topics.create, "orders", 3, {"retention_ms": 5}, NOW_MS)
    again = scribe.storage.write_now(topics.create, "orders", 9, {}, NOW_MS + 1)

    info = scribe.find("orders")
    assert (created, again) == (True, False)
    assert (info.partitions, info.config.retention_ms, info.created_at_ms, info.version) == (3, 5, NOW_MS, 1)


def test_topics_are_listed_in_the_byte_order_of_their_names(scribe: Scribe) -> None:
    for name in ("b", "a.", "A", "a", "_", "9", "a-"):
        scribe.create(name)

    def names(after: str, limit: int) -> list[str]:
        return [found.info.name for found in scribe.storage.read_now(topics.list_, after, limit, DEFAULTS)]

    assert names("", 100) == ["9", "A", "_", "a", "a-", "a.", "b"]
    assert names("_", 2) == ["a", "a-"]


def test_a_topic_created_again_inherits_nothing(scribe: Scribe) -> None:
    old = scribe.create(partitions=2)
    scribe.append(old, [Row(key=b"a", value=b"1"), Row(key=b"a", value=b"2")])
    scribe.apply(request(old, [Row()], key=KEY), request(old, [Row()], stamp=stamp(0)))
    compacted = structs.replace(old, config=TopicConfig(cleanup_policy="compact"))
    scribe.storage.write_now(compaction.compact, old.partition_ids[0], compacted, NOW_MS, 100)
    scribe.delete_before(old, 1)

    scribe.delete(old)
    new = scribe.create(partitions=2)

    assert new.topic_id > old.topic_id
    assert min(new.partition_ids) > max(old.partition_ids)
    assert scribe.extent(new)[1:] == (0, 0, 0)
    assert scribe.values(new) == {}
    outcomes = scribe.apply(request(new, [Row()], key=KEY), request(new, [Row()], stamp=stamp(0)))
    assert [(o.duplicate, o.appended.offsets) for o in outcomes if isinstance(o, Accepted)] == [
        (False, [0]),
        (False, [1]),
    ]
    scribe.purge()
    assert list(scribe.values(new)) == [0, 1]
    assert scribe.count("records") == 2
    assert scribe.count("compacted_keys") == scribe.count("compactions") == 0


def test_an_append_to_a_deleted_topic_is_refused_even_if_a_new_one_has_its_name(scribe: Scribe) -> None:
    old = scribe.create()
    scribe.delete(old)
    scribe.create()

    (outcome,) = scribe.apply(request(old, [Row()]))

    assert isinstance(outcome, UnknownTopicOrPartition)


def test_an_append_checked_against_an_older_version_is_to_be_checked_again(scribe: Scribe) -> None:
    old = scribe.create()
    new = scribe.change(old, 3, cleanup_policy="compact")

    (outcome,) = scribe.apply(request(old, [Row()]))

    assert outcome == TopicVersionChanged()
    assert (new.partitions, new.partition_ids[0], new.config.cleanup_policy) == (3, old.partition_ids[0], "compact")
    assert scribe.values(new) == {}


def test_ids_are_not_reused_after_the_last_topic_is_deleted(scribe: Scribe) -> None:
    old = scribe.create()
    scribe.delete(old)
    scribe.purge()

    new = scribe.create()

    assert new.topic_id > old.topic_id
    assert new.partition_ids[0] > old.partition_ids[0]


def test_a_key_is_answered_with_its_result_for_24_hours_and_then_unused(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.apply(request(info, [Row()], key=KEY))

    scribe.now_ms += DAY_MS
    (repeat,) = scribe.apply(request(info, [Row()], key=KEY))
    assert isinstance(repeat, Accepted)
    assert (repeat.duplicate, repeat.appended.offsets, repeat.appended.timestamps_ms) == (True, [0], [NOW_MS])

    scribe.now_ms += 1
    (fresh,) = scribe.apply(request(info, [Row()], key=KEY))
    assert isinstance(fresh, Accepted)
    assert (fresh.duplicate, fresh.appended.offsets) == (False, [1])

    (again,) = scribe.apply(request(info, [Row()], key=KEY))
    assert isinstance(again, Accepted)
    assert (again.duplicate, again.appended.offsets) == (True, [1])


def test_expired_keys_are_deleted_a_few_at_a_time(scribe: Scribe) -> None:
    info = scribe.create()
    for number in range(5):
        scribe.apply(request(info, [Row()], key=IdempotencyKey(b"%032d" % number, b"f")))
    scribe.now_ms += DAY_MS + 1
    scribe.apply(request(info, [Row()], key=KEY))

    removed = [scribe.storage.write_now(idempotency.expire, scribe.now_ms, 3) for _ in range(3)]

    assert removed == [3, 2, 0]
    assert scribe.count("idempotency_keys") == 1


def test_the_key_of_a_refused_request_leaves_no_row(scribe: Scribe) -> None:
    info = scribe.create()

    scribe.apply(request(info, [Row()], key=KEY, expected_offset=7))

    assert scribe.count("idempotency_keys") == 0


def test_a_refused_unknown_producer_leaves_no_row(scribe: Scribe) -> None:
    info = scribe.create()

    scribe.apply(request(info, [Row()], stamp=stamp(3)))

    assert scribe.count("producers") == scribe.count("producer_topics") == 0
    assert scribe.storage.read_now(producers.find, "checkout") is None


def test_a_raised_epoch_starts_every_topic_at_zero(scribe: Scribe) -> None:
    info, other = scribe.create(), scribe.create("other")
    assert scribe.storage.write_now(producers.raise_epoch, "checkout", NOW_MS) == 0
    scribe.apply(request(info, [Row()], stamp=stamp(0)), request(info, [Row()], stamp=stamp(1)))
    scribe.apply(request(other, [Row()], stamp=stamp(0)))
    assert scribe.storage.read_now(producers.find, "checkout") == (0, [("orders", 2), ("other", 1)])

    assert scribe.storage.write_now(producers.raise_epoch, "checkout", NOW_MS) == 1

    assert scribe.storage.read_now(producers.find, "checkout") == (1, [("orders", 0), ("other", 0)])


def test_a_producer_without_requests_for_seven_days_is_deleted(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.storage.write_now(producers.raise_epoch, "quiet", NOW_MS)
    scribe.apply(request(info, [Row()], stamp=stamp(0)))
    scribe.now_ms += 7 * DAY_MS
    scribe.apply(request(info, [Row()], stamp=stamp(1)))

    scribe.now_ms += 1
    assert scribe.storage.write_now(producers.expire, scribe.now_ms, 10) == 1
    assert scribe.storage.read_now(producers.find, "quiet") is None
    assert scribe.storage.read_now(producers.find, "checkout") == (0, [("orders", 2)])

    scribe.now_ms += 7 * DAY_MS
    assert scribe.storage.write_now(producers.expire, scribe.now_ms, 10) == 1
    assert scribe.count("producer_topics") == 0


def test_a_sequence_is_stored_across_batches(scribe: Scribe) -> None:
    info = scribe.create()
    for sequence in range(7):
        scribe.apply(request(info, [Row()], stamp=stamp(sequence)))

    (repeat,) = scribe.apply(request(info, [Row()], stamp=stamp(2)))

    assert isinstance(repeat, Accepted)
    assert (repeat.duplicate, repeat.appended.offsets) == (True, [2])
    assert scribe.extent(info).log_end_offset == 7
