"""Assignors: balanced, each partition once, with the fewest moves, compared with a search of all assignments."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.groups.assignor import ASSIGNORS, Assignment, Partition, Subscriber, range_, uniform

TOPICS = frozenset({1, 2, 3})
MEMBERS = ["a", "b", "c", "d"]

Subscribers = dict[str, Subscriber]


def subscriber(*topic_ids: int, had: Mapping[int, str] | None = None, instance_id: str | None = None) -> Subscriber:
    return Subscriber(frozenset(topic_ids), held(had or {}), instance_id)


def held(by_topic: Mapping[int, str]) -> frozenset[Partition]:
    return frozenset((topic_id, int(n)) for topic_id, numbers in by_topic.items() for n in numbers)


def loads(assignment: Assignment) -> list[int]:
    return sorted(map(len, assignment.values()))


def rejoin(subscribers: Mapping[str, Subscriber], assignment: Assignment) -> Subscribers:
    """Return members whose current target is the assignment."""
    return {name: one._replace(assigned=assignment[name]) for name, one in subscribers.items()}


def owners(subscribers: Subscribers, partitions: Mapping[int, int]) -> dict[Partition, str]:
    """Return the owner of each partition that a member may keep: the first claimant by id."""
    found: dict[Partition, str] = {}
    for name in sorted(subscribers):
        for topic_id, n in subscribers[name].assigned:
            if topic_id in subscribers[name].topic_ids and n < partitions.get(topic_id, 0):
                found.setdefault((topic_id, n), name)
    return found


def moves(subscribers: Subscribers, partitions: Mapping[int, int], assignment: Assignment) -> int:
    owner = owners(subscribers, partitions)
    return sum(owner.get(p, name) != name for name, target in assignment.items() for p in target)


def subscribed(subscribers: Subscribers, partitions: Mapping[int, int]) -> list[Partition]:
    topics = {topic_id for one in subscribers.values() for topic_id in one.topic_ids}
    return [(topic_id, n) for topic_id, count in partitions.items() if topic_id in topics for n in range(count)]


def best(subscribers: Subscribers, partitions: Mapping[int, int]) -> tuple[int, int]:
    """Return the least sum of squared loads of all assignments, and the fewest moves that reach it."""
    names = sorted(subscribers)
    owner = owners(subscribers, partitions)
    fewest = {(0,) * len(names): 0}
    for partition in subscribed(subscribers, partitions):
        longer: dict[tuple[int, ...], int] = {}
        for counts, moved in fewest.items():
            for i, name in enumerate(names):
                if partition[0] in subscribers[name].topic_ids:
                    more = (*counts[:i], counts[i] + 1, *counts[i + 1 :])
                    longer[more] = min(longer.get(more, 1_000), moved + (owner.get(partition, name) != name))
        fewest = longer
    return min((sum(count * count for count in counts), moved) for counts, moved in fewest.items())


def groups(topics_of: st.SearchStrategy[frozenset[int]]) -> st.SearchStrategy[Subscribers]:
    """Return members with claims that may be stale, disputed, or of unsubscribed topics."""
    claims = st.frozensets(st.tuples(st.sampled_from([1, 2, 3, 9]), st.integers(0, 4)), max_size=8)
    return st.dictionaries(st.sampled_from(MEMBERS), st.builds(Subscriber, topics_of, claims), min_size=1)


PARTITIONS = st.dictionaries(st.sampled_from(sorted(TOPICS)), st.integers(0, 4))
EQUAL = groups(st.just(TOPICS))
UNEQUAL = groups(st.frozensets(st.sampled_from([1, 2, 3, 8])))


@settings(max_examples=300, deadline=None)
@given(EQUAL | UNEQUAL, PARTITIONS)
def test_uniform_is_balanced_with_the_fewest_moves(subscribers: Subscribers, partitions: dict[int, int]) -> None:
    targets = uniform(subscribers, partitions)

    assert sorted(p for target in targets.values() for p in target) == sorted(subscribed(subscribers, partitions))
    assert all(p[0] in subscribers[name].topic_ids for name, target in targets.items() for p in target)
    assert (sum(load * load for load in loads(targets)), moves(subscribers, partitions, targets)) == best(
        subscribers, partitions
    )


@settings(deadline=None)
@given(EQUAL, PARTITIONS)
def test_uniform_loads_equal_subscribers_equally_within_one(
    subscribers: Subscribers, partitions: dict[int, int]
) -> None:
    shares = loads(uniform(subscribers, partitions))

    assert shares[-1] - shares[0] <= 1


@settings(deadline=None)
@given(EQUAL | UNEQUAL, PARTITIONS)
def test_uniform_does_not_change_its_own_assignment(subscribers: Subscribers, partitions: dict[int, int]) -> None:
    targets = uniform(subscribers, partitions)

    assert uniform(rejoin(subscribers, targets), partitions) == targets


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
def test_the_order_of_members_and_topics_does_not_matter(name: str) -> None:
    partitions = {1: 3, 2: 2, 3: 4}
    subscribers = {"a": subscriber(1, 2), "b": subscriber(2, 3, had={3: "03"}), "c": subscriber(1, 3, had={1: "2"})}
    expected = ASSIGNORS[name](subscribers, partitions)

    for names, topics in zip(permutations(subscribers), permutations(partitions), strict=True):
        shuffled = {one: subscribers[one] for one in names}
        assert ASSIGNORS[name](shuffled, {topic: partitions[topic] for topic in topics}) == expected


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
def test_an_assignment_without_members_or_partitions_is_empty(name: str) -> None:
    assign = ASSIGNORS[name]

    assert assign({}, {1: 3}) == {}
    assert assign({"a": subscriber(1)}, {}) == {"a": frozenset()}
    assert assign({"a": subscriber()}, {1: 3}) == {"a": frozenset()}
    assert assign({"a": subscriber(1, 9)}, {1: 0}) == {"a": frozenset()}


def test_a_first_assignment_is_round_robin_in_order() -> None:
    targets = uniform({"a": subscriber(1, 2), "b": subscriber(1, 2)}, {1: 3, 2: 2})

    assert targets == {"a": held({1: "01", 2: "0"}), "b": held({1: "2", 2: "1"})}


def test_a_new_member_gets_its_share_and_the_others_keep_the_rest() -> None:
    had = {"a": subscriber(1, had={1: "012"}), "b": subscriber(1, had={1: "345"})}

    targets = uniform(had | {"c": subscriber(1)}, {1: 6})

    assert targets == {"a": held({1: "01"}), "b": held({1: "34"}), "c": held({1: "25"})}


def test_the_remaining_members_keep_all_and_share_the_partitions_of_a_member_that_left() -> None:
    targets = uniform({"a": subscriber(1, had={1: "01"}), "b": subscriber(1, had={1: "23"})}, {1: 6})

    assert targets == {"a": held({1: "014"}), "b": held({1: "235"})}


def test_the_only_subscriber_of_a_topic_gives_up_partitions_that_others_can_read() -> None:
    had = {"a": subscriber(1, 2, had={1: "01"}), "b": subscriber(1, had={1: "23"})}

    targets = uniform(had, {1: 4, 2: 4})

    assert targets == {"a": held({2: "0123"}), "b": held({1: "0123"})}


def test_load_is_balanced_along_a_chain_of_members() -> None:
    had = {
        "a": subscriber(1, had={1: "012"}),
        "b": subscriber(1, 2, had={2: "01"}),
        "c": subscriber(2, had={2: "2"}),
    }

    targets = uniform(had, {1: 3, 2: 3})

    assert loads(targets) == [2, 2, 2]
    assert moves(had, {1: 3, 2: 3}, targets) == 2


def test_claims_to_missing_or_unsubscribed_partitions_are_ignored() -> None:
    had = {"a": subscriber(1, had={1: "07", 2: "0", 9: "0"}), "b": subscriber(2, had={2: "1"})}

    assert uniform(had, {1: 2, 2: 2}) == {"a": held({1: "01"}), "b": held({2: "01"})}


def test_two_hundred_members_share_a_thousand_partitions_and_a_new_member_costs_five_moves() -> None:
    partitions = dict.fromkeys(range(1, 101), 10)
    equal = {f"m{i:03}": Subscriber(frozenset(partitions)) for i in range(200)}
    alone = dict(list(equal.items())[1:])

    before = uniform(alone, partitions)
    members = rejoin(alone, before) | {"m000": equal["m000"]}
    after = uniform(members, partitions)

    assert set(loads(before)) == {5, 6}
    assert set(loads(after)) == {5}
    assert moves(members, partitions, after) == 5


def test_two_hundred_members_with_different_subscriptions_share_a_thousand_partitions() -> None:
    partitions = dict.fromkeys(range(1, 101), 10)
    unequal = {f"m{i:03}": Subscriber(frozenset(t for t in partitions if (t * i) % 7 < 3)) for i in range(1, 201)}

    targets = uniform(unequal, partitions)

    assert sum(loads(targets)) == 1_000
    assert set(loads(targets)) == {5}
    assert uniform(rejoin(unequal, targets), partitions) == targets


# Kafka's RangeAssignorTest.


def test_range_gives_the_first_members_one_more() -> None:
    assert range_({"c0": subscriber(1, 2), "c1": subscriber(1, 2)}, {1: 3, 2: 3}) == {
        "c0": held({1: "01", 2: "01"}),
        "c1": held({1: "2", 2: "2"}),
    }


def test_range_divides_each_topic_among_its_subscribers_only() -> None:
    members = {"c1": subscriber(1), "c2": subscriber(1, 2), "c3": subscriber(1)}

    assert range_(members, {1: 3, 2: 2}) == {
        "c1": held({1: "0"}),
        "c2": held({1: "1", 2: "01"}),
        "c3": held({1: "2"}),
    }


def test_range_assigns_nothing_to_members_beyond_the_number_of_partitions() -> None:
    assert range_({"c1": subscriber(1), "c2": subscriber(1)}, {1: 1}) == {"c1": held({1: "0"}), "c2": frozenset()}


def test_range_divides_a_topic_with_fewer_partitions_than_members() -> None:
    members = {name: subscriber(1, 2) for name in ("a", "b", "c")}

    assert range_(members, {1: 4, 2: 2}) == {
        "a": held({1: "01", 2: "0"}),
        "b": held({1: "2", 2: "1"}),
        "c": held({1: "3"}),
    }


def test_range_orders_static_members_by_instance_id_before_all_others() -> None:
    members = {
        "z1": subscriber(1, instance_id="one"),
        "a2": subscriber(1, instance_id="two"),
        "a": subscriber(1),
    }

    assert range_(members, {1: 3}) == {"z1": held({1: "0"}), "a2": held({1: "1"}), "a": held({1: "2"})}


def test_range_ignores_the_previous_assignment() -> None:
    had = {"a": subscriber(1, had={1: "23"}), "b": subscriber(1, had={1: "01"})}

    assert range_(had, {1: 4}) == {"a": held({1: "01"}), "b": held({1: "23"})}
