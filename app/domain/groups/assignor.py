"""Which member of a group should have which partitions: the server-side assignors of KIP-848. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

Partition = tuple[int, int]  # (topic_id, partition)
Assignment = dict[str, frozenset[Partition]]


class Subscriber(NamedTuple):
    """What an assignor knows of a member.

    Attributes:
        topic_ids: Topics it subscribes to; those that do not exist are passed over.
        assigned: Its target so far; stale and disputed claims are allowed.
        instance_id: Name of a static member, or None.
    """

    topic_ids: frozenset[int]
    assigned: frozenset[Partition] = frozenset()
    instance_id: str | None = None


Assignor = Callable[[Mapping[str, Subscriber], Mapping[int, int]], Assignment]


def uniform(subscribers: Mapping[str, Subscriber], partitions: Mapping[int, int]) -> Assignment:
    """Share the partitions out evenly, moving as few as that allows.

    Each partition of a topic that has a subscriber goes to exactly one; each member is in the result. No member has
    two more than another that could take one of its partitions, directly or through a chain of moves; of all such
    assignments it is one that leaves the most partitions where they are. A partition claimed by several members
    counts as the first one's, by id. The order of the mappings does not matter.

    Args:
        subscribers: Members by id.
        partitions: Number of partitions, by id, of each topic that exists.

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
    board = _Board(subscribers, claims, free)
    _place(board, list(free.values()))
    _level(board)
    _bring_back(board)
    return _deal(board, claims, free)


def range_(subscribers: Mapping[str, Subscriber], partitions: Mapping[int, int]) -> Assignment:
    """Give each topic's subscribers, in order, one run of its partitions each.

    Static members come first, by instance_id, so that a restart changes nothing; then the others, by member_id. The
    first (partitions mod subscribers) runs are one longer. Topics with equally many partitions and the same
    subscribers are cut alike, so that they can be joined by key. What members had before does not count.

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
    """Return what each member may keep, in order: it exists, is subscribed to and nobody before claimed it."""
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


# A topic's partitions are interchangeable but for who holds them now, so it is numbers that are searched, not
# partitions: how many of each topic each member has. Members are numbered in the order of their ids, topics
# likewise, and a set of members is an integer with one bit each: "subscribers not yet seen" is then one operation.


def _bits(members: int) -> Iterator[int]:
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest


class _Board:
    """How many partitions of each topic each member holds.

    Attributes:
        had: By member: topic → partitions it may keep.
        held: By member: topic → partitions it holds now; never 0.
        loads: By member: partitions held, of all topics.
        levels: By load: the members that have it.
        subscribers: By topic: the members that may hold it.
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
        self.levels = [0] * (sum(self.loads) + sum(map(len, free.values())) + 1)
        for member, load in enumerate(self.loads):
            self.levels[load] |= 1 << member

        self.subscribers = [0] * len(topic_of)
        for member, member_id in enumerate(claims):
            for topic_id in subscribers[member_id].topic_ids & topic_of.keys():
                self.subscribers[topic_of[topic_id]] |= 1 << member

    def give(self, topic: int, taker: int) -> None:
        self.held[taker][topic] = self.held[taker].get(topic, 0) + 1
        self._load(taker, self.loads[taker] + 1)

    def move(self, topic: int, giver: int, taker: int) -> None:
        self.held[giver][topic] -= 1
        if not self.held[giver][topic]:
            del self.held[giver][topic]
        self._load(giver, self.loads[giver] - 1)
        self.give(topic, taker)

    def least_loaded(self, members: int) -> int:
        least = next(at_level for level in self.levels if (at_level := level & members))
        return (least & -least).bit_length() - 1

    def _load(self, member: int, load: int) -> None:
        self.levels[self.loads[member]] ^= 1 << member
        self.levels[load] ^= 1 << member
        self.loads[member] = load


def _place(board: _Board, free: list[list[Partition]]) -> None:
    """Give what nobody holds to the least loaded, the topics with the fewest subscribers first."""
    for topic in sorted(range(len(free)), key=lambda topic: board.subscribers[topic].bit_count()):
        for _ in free[topic]:
            board.give(topic, board.least_loaded(board.subscribers[topic]))


def _level(board: _Board) -> None:
    """Move partitions along short chains, from the fullest members down, until no chain evens out any more."""
    open_members = (1 << len(board.loads)) - 1
    top = max(board.loads, default=0)
    low = sum(board.levels[: max(top - 1, 0)])  # those with at least two fewer than the fullest
    while low & open_members:
        if not board.levels[top] & open_members:
            top -= 1
            low &= ~board.levels[top - 1]
            continue
        fullest = next(_bits(board.levels[top] & open_members))
        moves, reached = _chain(board, fullest, open_members, low)
        if not moves:
            # Nothing leads out of what was reached, and nobody outside has enough to push into it: it is final.
            open_members &= ~reached
            continue
        for topic, giver, taker in moves:
            board.move(topic, giver, taker)
        last = moves[0][2]
        if board.loads[last] > top - 2:
            low ^= 1 << last


def _chain(board: _Board, source: int, members: int, low: int) -> tuple[list[tuple[int, int, int]], int]:
    """Find a shortest chain of moves from a member to a low one.

    Returns:
        Moves as (topic, giver, taker), the last one first, or none; and the members that were reached.
    """
    unseen = members & ~(1 << source)
    came: dict[int, tuple[int, int]] = {}
    queue = [source]
    for giver in queue:
        for topic in board.held[giver]:
            fresh = board.subscribers[topic] & unseen
            unseen ^= fresh
            if hits := fresh & low:
                last = board.least_loaded(hits)
                came[last] = (topic, giver)
                return list(_moves_to(last, came)), members & ~unseen
            for member in _bits(fresh):
                came[member] = (topic, giver)
                queue.append(member)
    return [], members & ~unseen


def _moves_to(taker: int, came: Mapping[int, tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    while taker in came:
        topic, giver = came[taker]
        yield topic, giver, taker
        taker = giver


# ── moves that evenness does not need ──
#
# They are cycles of negative cost in a graph of members, topics and loads. A member leads to the topics it can give up,
# a topic to the members that can take it: to give up more than one had saves a move, to take more than one had costs
# one. A member also leads to its load plus one, and a load to the members that have it: the first ends with one more,
# the second with one fewer, which is as even as before.


def _bring_back(board: _Board) -> None:
    first_topic = len(board.loads)
    while cycles := _cycles(board):
        for cycle in cycles:
            for giver, topic, taker in zip(cycle[-1:] + cycle, cycle, cycle[1:] + cycle, strict=False):
                if 0 <= topic - first_topic < len(board.subscribers):
                    board.move(topic - first_topic, giver, taker)


def _cycles(board: _Board) -> list[list[int]]:
    """Return cycles of negative cost without a common node, each in order; none when the moves are fewest."""
    edges = _cheap_edges(board)
    cost = [0] * (len(board.loads) + len(board.subscribers) + len(board.levels) + 1)
    came = [-1] * len(cost)
    lowered = bool(edges)
    while lowered:
        lowered = False
        for node, following, price in chain(edges, _dear_edges(board, cost)):
            if cost[node] + price < cost[following]:
                cost[following] = cost[node] + price
                came[following] = node
                lowered = True
        if cycles := _closed(came):
            return cycles
    return []


def _cheap_edges(board: _Board) -> list[tuple[int, int, int]]:
    """Return the edges that cost nothing or less, or none when nobody lost what it had."""
    first_topic = len(board.loads)
    first_load = first_topic + len(board.subscribers)
    gives, takes = [], []
    for member, (had, held) in enumerate(zip(board.had, board.held, strict=True)):
        gives += [(member, first_topic + topic, -(count > had[topic])) for topic, count in held.items()]
        takes += [(first_topic + topic, member, 0) for topic, count in had.items() if held.get(topic, 0) < count]
    if not takes:
        return []
    more = [(member, first_load + load + 1, 0) for member, load in enumerate(board.loads)]
    fewer = [(first_load + load, member, 0) for member, load in enumerate(board.loads)]
    return gives + takes + more + fewer


def _dear_edges(board: _Board, cost: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield those edges from topics to members, at 1 each, that may lower a cost.

    No cost is above 0, so the topic's must be below -1; a member needs only the edge from its cheapest topic.
    """
    first_topic = len(board.loads)
    unseen = (1 << first_topic) - 1
    nodes = [first_topic + topic for topic in range(len(board.subscribers)) if cost[first_topic + topic] < -1]
    for node in sorted(nodes, key=cost.__getitem__):
        fresh = board.subscribers[node - first_topic] & unseen
        unseen ^= fresh
        for member in _bits(fresh):
            yield node, member, 1


def _closed(came: list[int]) -> list[list[int]]:
    """Return the cycles among the nodes' predecessors."""
    cycles = []
    seen_from = [-1] * len(came)
    for start in range(len(came)):
        node = start
        while node >= 0 and seen_from[node] < 0:
            seen_from[node] = start
            node = came[node]
        if node >= 0 and seen_from[node] == start:
            cycle = [node]
            while (before := came[cycle[-1]]) != node:
                cycle.append(before)
            cycles.append(cycle[::-1])
    return cycles


def _deal(board: _Board, claims: Mapping[str, list[Partition]], free: Mapping[int, list[Partition]]) -> Assignment:
    """Turn numbers into partitions: each member keeps its first of a topic, the rest goes round in order."""
    spare = [list(partitions) for partitions in free.values()]
    kept: list[list[Partition]] = []
    for claim, had, held in zip(claims.values(), board.had, board.held, strict=True):
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
        for member_id, own, had, held in zip(claims, kept, board.had, board.held, strict=True)
    }
