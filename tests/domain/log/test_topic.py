"""Names, numbers of partitions and configuration of topics."""

from __future__ import annotations

import pytest

from app.domain.log.topic import (
    TopicConfig,
    check_name,
    check_overrides,
    check_partitions,
    check_topic_name,
    with_overrides,
)
from app.errors.log import InvalidConfig, InvalidPartitions, InvalidTopicName


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "...", "-", "_", "a" * 249, "_x"])
def test_a_name_of_allowed_characters_is_accepted(name: str) -> None:
    check_topic_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 250, "a b", "a/b", "é", "a\n", "\na", "a\0", "٣", "a:b", "a%2F"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidTopicName):
        check_topic_name(name)


def test_names_that_start_with_two_underscores_are_reserved() -> None:
    with pytest.raises(InvalidTopicName):
        check_topic_name("__consumer_offsets")
    check_name("__internal", "producer")


@pytest.mark.parametrize(("partitions", "present"), [(1, 0), (1000, 0), (4, 4), (5, 4)])
def test_a_topic_has_one_to_a_thousand_partitions_and_may_gain_some(partitions: int, present: int) -> None:
    check_partitions(partitions, present)


@pytest.mark.parametrize(("partitions", "present"), [(0, 0), (-1, 0), (1001, 0), (3, 4), (10**30, 0)])
def test_other_numbers_of_partitions_are_refused(partitions: int, present: int) -> None:
    with pytest.raises(InvalidPartitions):
        check_partitions(partitions, present)


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("retention_ms", -1, 2**63 - 1),
        ("retention_bytes", -1, 2**63 - 1),
        ("max_message_bytes", 1, 33_554_432),
        ("delete_retention_ms", 0, 2**63 - 1),
        ("min_compaction_lag_ms", 0, 2**63 - 1),
    ],
)
def test_each_configuration_value_has_bounds(field: str, lowest: int, highest: int) -> None:
    check_overrides({field: lowest})
    check_overrides({field: highest})
    for beyond in (lowest - 1, highest + 1):
        with pytest.raises(InvalidConfig) as error:
            check_overrides({field: beyond})
        assert error.value.facts["errors"] == [
            {"field": f"config.{field}", "detail": f"must be from {lowest} to {highest}"}
        ]


def test_the_defaults_are_those_of_kafka() -> None:
    assert TopicConfig() == TopicConfig(
        cleanup_policy="delete",
        retention_ms=604_800_000,
        retention_bytes=-1,
        max_message_bytes=1_048_576,
        message_timestamp_type="CreateTime",
        delete_retention_ms=86_400_000,
        min_compaction_lag_ms=0,
    )


def test_values_of_the_topic_replace_the_defaults() -> None:
    config = with_overrides(TopicConfig(max_message_bytes=10), {"retention_ms": -1})

    assert (config.max_message_bytes, config.retention_ms, config.retention_bytes) == (10, -1, -1)


@pytest.mark.parametrize(
    ("policy", "compacted", "deleted"),
    [("delete", False, True), ("compact", True, False), ("compact,delete", True, True)],
)
def test_the_policy_decides_about_retention_and_compaction(policy: str, compacted: bool, deleted: bool) -> None:
    config = with_overrides(TopicConfig(), {"cleanup_policy": policy})

    assert (config.compacted, config.deleted) == (compacted, deleted)
