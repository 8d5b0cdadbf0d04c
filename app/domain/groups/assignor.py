"""The server-side assignors of KIP-848: they compute the target assignment of a group. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

Partition = tuple[int, int]  # (topic_id, partition)
Assignment = dict[str, frozenset[Partition]]


class Subscriber(NamedTuple):
    """A member as an assignor sees it.

    Attributes:
        topic_ids: Topics that it subscribes to; topics that do not exist are ignored.
        assigned: Its current target; it may contain partitions that do not exist or that other members claim too.
        instance_id: Name of a static member, or None.
    """

    topic_ids: frozenset[int]
    assigned: frozenset[Partition] = frozenset()
    instance_id: str | None = None


Assignor = Callable[[Mapping[str, Subscriber], Mapping[int, int]], Assignment]


def uniform(subscribers: Mapping[str, Subscriber], partitions: Mapping[int, int]) -> Assignment:
    """Distribute the partitions evenly, with the fewest moves.

    Each partition of a subscribed topic is assigned to exactly one subscriber, and each member is in the result. No
    member has two partitions more than another that could take one of them, directly or through a chain of moves. Of
    all such assignments, the result is one that moves the fewest partitions. A partition that several members claim
    counts as that of the first member by id. The order of the mappings does not matter.

    Args:
        subscribers: Members by id.
        partitions: Number of partitions of each existing topic, by topic id.

    Source: KIP-848, UniformAssignor; the balance is an optimal semi-matching (Harvey et al., 2006), the stickiness
    a minimum-cost flow by cancelling cycles (Klein, 1967).
    """
    claims = _claims(subscribers, partitions)
    claimed = {partition for claim in claims.values() for partition in claim}
    topics = frozenset[int]().union(*(subscriber.topic_ids for subscriber in subscribers.values()))
    free = {
        topic_id: [partition for n in range(partitions[topic_id]) if (partition := (topic_id, n)) not in claimed]
        for topic_id in sorted(topics & partitions.keys())
    }
    counts = _Counts(subscribers, claims, free)
    _assign_free(counts, list(free.values()))
    _balance(counts)
    _undo_moves(counts)
    return _partitions_of(counts, claims, free)


def range_(subscribers: Mapping[str, Subscriber], partitions: Mapping[int, int]) -> Assignment:
    """Assign each subscriber of a topic one range of its partitions, in order.

    Static members come first, by instance_id, so that a restart changes nothing; then the others, by member_id. The
    first (partitions mod subscribers) ranges are longer by one. Topics with the same number of partitions and the same
    subscribers are divided alike, so that they can be joined by key. The current targets are ignored.

    Source: org.apache.kafka.coordinator.group.assignor.RangeAssignor, without racks.
    """
    order = sorted(
        subscribers, key=lambda name: (subscribers[name].instance_id is None, subscribers[name].instance_id or name)
    )
    targets: dict[str, list[Partition]] = {member_id: [] for member_id in subscribers}
    for topic_id, count in partitions.items():
        member_ids = [member_id for member_id in order if topic_id in subscribers[member_id].topic_ids]
        shortest, longer = divmod(count, len(member_ids) or 1)
        start = 0
        for i, member_id in enumerate(member_ids):
            end = start + shortest + (i < longer)
            targets[member_id] += [(topic_id, n) for n in range(start, end)]
            start = end
    return {member_id: frozenset(target) for member_id, target in targets.items()}


ASSIGNORS: Mapping[str, Assignor] = {"uniform": uniform, "range": range_}


def _claims(subscribers: Mapping[str, Subscriber], partitions: Mapping[int, int]) -> dict[str, list[Partition]]:
    """Return the sorted partitions that each member may keep: existing, subscribed, and claimed by no member before."""
    taken: set[Partition] = set()
    claims: dict[str, list[Partition]] = {}
    for member_id, (topic_ids, assigned, _) in sorted(subscribers.items()):
        claims[member_id] = sorted(
            (topic_id, n)
            for topic_id, n in assigned - taken
            if topic_id in topic_ids and 0 <= n < partitions.get(topic_id, 0)
        )
        taken.update(claims[member_id])
    return claims


# The partitions of a topic differ only in their current owner. The search therefore counts how many partitions of each
# topic each member has. Members and topics are numbered in the order of their ids. A set of members is an integer with
# one bit for each member, so that "subscribers not yet visited" is one operation.


def _bits(members: int) -> Iterator[int]:
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest


class _Counts:
    """The number of partitions of each topic that each member holds.

    Attributes:
        had: By member: topic → number of partitions that it may keep.
        held: By member: topic → number of partitions that it holds now; never 0.
        loads: By member: number of partitions that it holds, of all topics.
        members_by_load: By load: the set of members with this load.
        subscribers: By topic: the set of members that may hold it.
    """

    def __init__(
        self,
        subscribers: Mapping[str, Subscriber],
        claims: Mapping[str, list[Partition]],
        free: Mapping[int, list[Partition]],
    ) -> None:
        topic_of = {topic_id: topic for topic, topic_id in enumerate(free)}
        self.had = [Counter(topic_of[topic_id] for topic_id, _ in claim) for claim in claims.values()]
        self.held = [dict(had) for had in self.had]
        self.loads = [len(claim) for claim in claims.values()]
        self.members_by_load = [0] * (sum(self.loads) + sum(map(len, free.values())) + 1)
        for member, load in enumerate(self.loads):
            self.members_by_load[load] |= 1 << member

        self.subscribers = [0] * len(topic_of)
        for member, member_id in enumerate(claims):
            for topic_id in subscribers[member_id].topic_ids & topic_of.keys():
                self.subscribers[topic_of[topic_id]] |= 1 << member

    def add(self, topic: int, taker: int) -> None:
        self.held[taker][topic] = self.held[taker].get(topic, 0) + 1
        self._set_load(taker, self.loads[taker] + 1)

    def move(self, topic: int, giver: int, taker: int) -> None:
        self.held[giver][topic] -= 1
        if not self.held[giver][topic]:
            del self.held[giver][topic]
        self._set_load(giver, self.loads[giver] - 1)
        self.add(topic, taker)

    def least_loaded(self, members: int) -> int:
        least = next(found for with_load in self.members_by_load if (found := with_load & members))
        return (least & -least).bit_length() - 1

    def _set_load(self, member: int, load: int) -> None:
        self.members_by_load[self.loads[member]] ^= 1 << member
        self.members_by_load[load] ^= 1 << member
        self.loads[member] = load


def _assign_free(counts: _Counts, free: list[list[Partition]]) -> None:
    """Assign free partitions to the least loaded members, the topics with the fewest subscribers first."""
    for topic in sorted(range(len(free)), key=lambda topic: counts.subscribers[topic].bit_count()):
        for _ in free[topic]:
            counts.add(topic, counts.least_loaded(counts.subscribers[topic]))


def _balance(counts: _Counts) -> None:
    """Move partitions along shortest chains, from the members with the highest load down, until none improves."""
    open_members = (1 << len(counts.loads)) - 1
    top = max(counts.loads, default=0)
    low = sum(counts.members_by_load[: max(top - 1, 0)])  # members with a load at least two below the highest
    while low & open_members:
        if not counts.members_by_load[top] & open_members:
            top -= 1
            low &= ~counts.members_by_load[top - 1]
            continue
        source = next(_bits(counts.members_by_load[top] & open_members))
        moves, reached = _chain(counts, source, open_members, low)
        if not moves:
            # No chain leads out of the reached members, and no other load is high enough for a chain into them.
            open_members &= ~reached
            continue
        for topic, giver, taker in moves:
            counts.move(topic, giver, taker)
        last = moves[0][2]
        if counts.loads[last] > top - 2:
            low ^= 1 << last


def _chain(counts: _Counts, source: int, members: int, low: int) -> tuple[list[tuple[int, int, int]], int]:
    """Find a shortest chain of moves from a member to one with a low load.

    Returns:
        The moves as (topic, giver, taker), the last one first, or an empty list; and the members that were reached.
    """
    unseen = members & ~(1 << source)
    previous: dict[int, tuple[int, int]] = {}
    queue = [source]
    for giver in queue:
        for topic in counts.held[giver]:
            fresh = counts.subscribers[topic] & unseen
            unseen ^= fresh
            if hits := fresh & low:
                last = counts.least_loaded(hits)
                previous[last] = (topic, giver)
                return list(_moves_to(last, previous)), members & ~unseen
            for member in _bits(fresh):
                previous[member] = (topic, giver)
                queue.append(member)
    return [], members & ~unseen


def _moves_to(taker: int, previous: Mapping[int, tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    while taker in previous:
        topic, giver = previous[taker]
        yield topic, giver, taker
        taker = giver


# ── undo moves that the balance does not need ──
#
# They are cycles of negative cost in a graph of members, topics and loads. An edge leads from a member to each topic
# that it can give up, and from a topic to each member that can take it. To give up a partition above the claim saves a
# move; to take one above the claim costs a move. An edge also leads from a member to its load plus one, and from a load
# to the members with this load: the first member ends with one more, the second with one fewer, and the balance is the
# same.


def _undo_moves(counts: _Counts) -> None:
    first_topic = len(counts.loads)
    while cycles := _cycles(counts):
        for cycle in cycles:
            for giver, topic, taker in zip(cycle[-1:] + cycle, cycle, cycle[1:] + cycle, strict=False):
                if 0 <= topic - first_topic < len(counts.subscribers):
                    counts.move(topic - first_topic, giver, taker)


def _cycles(counts: _Counts) -> list[list[int]]:
    """Return cycles of negative cost without a common node, each in order; none if the moves are the fewest."""
    edges = _free_edges(counts)
    cost = [0] * (len(counts.loads) + len(counts.subscribers) + len(counts.members_by_load) + 1)
    previous = [-1] * len(cost)
    lowered = bool(edges)
    while lowered:
        lowered = False
        for node, following, price in chain(edges, _costly_edges(counts, cost)):
            if cost[node] + price < cost[following]:
                cost[following] = cost[node] + price
                previous[following] = node
                lowered = True
        if cycles := _closed(previous):
            return cycles
    return []


def _free_edges(counts: _Counts) -> list[tuple[int, int, int]]:
    """Return the edges of cost 0 or -1; none if no member has lost a partition."""
    first_topic = len(counts.loads)
    first_load = first_topic + len(counts.subscribers)
    gives, takes = [], []
    for member, (had, held) in enumerate(zip(counts.had, counts.held, strict=True)):
        gives += [(member, first_topic + topic, -(count > had[topic])) for topic, count in held.items()]
        takes += [(first_topic + topic, member, 0) for topic, count in had.items() if held.get(topic, 0) < count]
    if not takes:
        return []
    more = [(member, first_load + load + 1, 0) for member, load in enumerate(counts.loads)]
    fewer = [(first_load + load, member, 0) for member, load in enumerate(counts.loads)]
    return gives + takes + more + fewer


def _costly_edges(counts: _Counts, cost: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the edges of cost 1, from topics to members, that may lower a cost.

    No cost is above 0, so the topic's must be below -1. A member needs only the edge from its topic of lowest cost.
    """
    first_topic = len(counts.loads)
    unseen = (1 << first_topic) - 1
    nodes = [first_topic + topic for topic in range(len(counts.subscribers)) if cost[first_topic + topic] < -1]
    for node in sorted(nodes, key=cost.__getitem__):
        fresh = counts.subscribers[node - first_topic] & unseen
        unseen ^= fresh
        for member in _bits(fresh):
            yield node, member, 1


def _closed(previous: list[int]) -> list[list[int]]:
    """Return the cycles among the nodes' predecessors."""
    cycles = []
    seen_from = [-1] * len(previous)
    for start in range(len(previous)):
        node = start
        while node >= 0 and seen_from[node] < 0:
            seen_from[node] = start
            node = previous[node]
        if node >= 0 and seen_from[node] == start:
            cycle = [node]
            while (before := previous[cycle[-1]]) != node:
                cycle.append(before)
            cycles.append(cycle[::-1])
    return cycles


def _partitions_of(
    counts: _Counts, claims: Mapping[str, list[Partition]], free: Mapping[int, list[Partition]]
) -> Assignment:
    """Turn counts into partitions: each member keeps its first of a topic, and the others are assigned in order."""
    spare = [list(partitions) for partitions in free.values()]
    kept: list[list[Partition]] = []
    for claim, had, held in zip(claims.values(), counts.had, counts.held, strict=True):
        kept.append([])
        start = 0
        for topic, count in had.items():  # in the order of the claim
            end = start + min(count, held.get(topic, 0))
            kept[-1] += claim[start:end]
            spare[topic] += claim[end : start + count]
            start += count
    for partitions in spare:
        partitions.sort(reverse=True)
    return {
        member_id: frozenset(
            own + [spare[topic].pop() for topic, count in held.items() for _ in range(count - had.get(topic, 0))]
        )
        for member_id, own, had, held in zip(claims, kept, counts.had, counts.held, strict=True)
    }
