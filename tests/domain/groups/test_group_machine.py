"""Consumer groups against clients that keep their own view of what they may read, and a broker that may lose answers.

The clients obey the protocol: they stop what is no longer assigned to them, now or a while after they were told, and
stop everything when no answer came for as long as a session surely lasts, or when they are refused. Some lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from app.domain.groups import assignment
from app.domain.groups.assignment import TopicMetadata
from app.domain.groups.assignor import Partition
from app.domain.groups.group import (
    Group,
    JoinRequest,
    Member,
    Subscription,
    check_commit,
    expire_members,
    find_member,
    join_group,
    leave_group,
    take_heartbeat,
)
from app.errors.broker_error import BrokerError
from app.errors.groups import FencedInstanceId, FencedMemberEpoch, GroupMaxSizeReached, UnknownMemberId

MAX_MEMBERS = 4

SUBSCRIPTIONS = st.sampled_from(
    [
        Subscription(("orders",)),
        Subscription(("orders",)),
        Subscription(("audit", "orders")),
        Subscription(("audit", "missing")),
        Subscription((), "orders*"),
        Subscription(("__own",), "orders.*"),
    ]
)
WISHES = st.builds(
    JoinRequest,
    member_id=st.sampled_from(["alice", "bob", "carol", "dave", "eve"]),
    instance_id=st.sampled_from([None, None, None, "one", "two"]),
    subscription=SUBSCRIPTIONS,
    assignor=st.sampled_from(["uniform", "uniform", "uniform", "range"]),
    session_timeout_ms=st.sampled_from([12_000, 45_000]),
    rebalance_timeout_ms=st.sampled_from([10_000, 300_000]),
)
TOPICS = st.sampled_from(["orders", "orders.eu", "audit", "__own"])
WHO = st.integers(0, 9)
SOME = st.integers(0, 1023)
MOSTLY_NOT = st.sampled_from([False, False, False, True])


@dataclass
class Client:
    """A process that consumes.

    Attributes:
        working: What it reads or has yet to finish.
        answered_ms: When it sent the last request that was answered.
        told_ms: When it last surely did not yet have to give up what it has yet to finish, or None.
        fenced: Another process took its place; it may not know.
        honest: It never said that it had stopped what it works on.
    """

    join_request: JoinRequest
    epoch: int | None = None
    working: set[Partition] = field(default_factory=set)
    answered_ms: int = 0
    told_ms: int | None = None
    fenced: bool = False
    honest: bool = True

    def believes(self, now_ms: int) -> set[Partition]:
        """Return what it works on, unless it knows that its time is over."""
        longest_ms = min(self.join_request.session_timeout_ms * 2 / 3, self.join_request.rebalance_timeout_ms)
        too_slow = self.told_ms is not None and now_ms - self.told_ms >= self.join_request.rebalance_timeout_ms
        return set() if too_slow or now_ms - self.answered_ms >= longest_ms else self.working

    def hear(self, member: Member, sent_ms: int, *, stops_at_once: bool) -> None:
        may_read = set(member.assigned)
        self.working = may_read if stops_at_once else self.working | may_read
        self.told_ms = None if self.working == may_read else (self.told_ms or self.answered_ms)
        self.epoch, self.answered_ms = member.member_epoch, sent_ms

    def drop(self) -> None:
        self.epoch, self.working, self.told_ms = None, set(), None


class ConsumerGroup(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_700_000_000_000
        self.group = Group(group_id=1, name="g", empty_since_ms=self.now_ms)
        self.shapes: dict[str, TopicMetadata] = {}
        self.topics_made = 0
        self.clients: list[Client] = []
        self.epochs: dict[str, int] = {}
        self.heard_ms: dict[str, int] = {}
        self.asked_ms: dict[str, int] = {}
        self.assigned_at_ms: list[int] = []
        self.assigned_for: object = None

    # ── the broker ──

    def change(self, step: Callable[[Group], Group]) -> None:
        before = deepcopy(self.group)
        try:
            after = step(self.group)
        finally:
            assert self.group == before, "a step changes nothing of the group that it is given"
        self.follow(after)
        if after.assign_at_ms is not None and after.assign_at_ms <= self.now_ms:
            self.follow(self.update_target_assignment(after))

    def update_target_assignment(self, group: Group) -> Group:
        after, rebalance = assignment.update_target_assignment(group, self.shapes, self.now_ms)
        holders = Counter(p for target in rebalance.targets.values() for p in target)
        assert holders == dict.fromkeys(self.subscribed(group), 1)
        had = {name: member.target for name, member in group.members.items()}
        assigned_for = (
            {
                name: (join_request.subscription, join_request.assignor, join_request.instance_id)
                for name, join_request in self.wishes(group).items()
            },
            self.shapes.copy(),
        )
        if assigned_for == self.assigned_for and sum(map(len, had.values())) == len(holders):
            assert {name: member.target for name, member in after.members.items()} == had, "nothing moves without need"
        self.assigned_for = assigned_for
        assert not self.assigned_at_ms or self.now_ms - self.assigned_at_ms[-1] >= 1_000
        self.assigned_at_ms.append(self.now_ms)
        return after

    def wishes(self, group: Group) -> dict[str, JoinRequest]:
        return {name: member.join_request for name, member in group.members.items()}

    def follow(self, after: Group) -> None:
        before, self.group = self.group, after
        assert after.group_epoch >= before.group_epoch
        assert after.assignment_epoch >= before.assignment_epoch
        for name, member in after.members.items():
            old = before.members.get(name)
            known = self.epochs.get(name, 0)
            assert member.member_epoch >= known if old is not None else member.member_epoch > known
            self.epochs[name] = member.member_epoch
            if member.revoking.keys() - (old.revoking.keys() if old is not None else set()):
                self.asked_ms[name] = self.now_ms

    def subscribed(self, group: Group) -> list[Partition]:
        return [
            (shape.topic_id, n)
            for name, shape in self.shapes.items()
            if any(member.join_request.subscription.matches(name) for member in group.members.values())
            for n in range(shape.partitions)
        ]

    def take_beat(self, member_id: str, epoch: int, owned: Collection[Partition] | None, *, released: bool) -> None:
        member = self.group.members.get(member_id)
        step = partial(
            take_heartbeat,
            member_id=member_id,
            member_epoch=epoch,
            owned=owned,
            now_ms=self.now_ms,
            released=released,
        )
        if member is not None and member.member_epoch == epoch and member.is_reconciled(self.group.assignment_epoch):
            deadline_ms = member.deadline_ms
            if not member.session_is_fresh(self.now_ms):
                deadline_ms = max(deadline_ms, self.now_ms + member.join_request.session_timeout_ms)
            renewed = self.group.members | {member_id: replace(member, deadline_ms=deadline_ms)}
            assert step(self.group) == replace(self.group, members=renewed), "a settled member's beat renews its lease"
        after = step(self.group)
        held = after.members[member_id].assigned.keys() | after.members[member_id].revoking.keys()
        if epoch == after.members[member_id].member_epoch or held.issuperset(owned or ()):
            assert self.repeated(step, after) == after, "a request that is sent again changes nothing more"
        self.change(step)
        self.heard_ms[member_id] = self.now_ms

    def repeated(self, step: Callable[[Group], Group], group: Group) -> Group | BrokerError:
        try:
            return step(group)
        except BrokerError as refusal:
            return refusal

    # ── clients ──

    def client(self, who: int) -> Client | None:
        return self.clients[who % len(self.clients)] if self.clients else None

    def send_join(self, client: Client, *, lost: bool) -> None:
        client.drop()
        join_request = client.join_request
        same_place = [
            other
            for other in self.clients
            if other is not client
            and (
                other.join_request.member_id == join_request.member_id
                or (join_request.instance_id is not None and other.join_request.instance_id == join_request.instance_id)
            )
        ]
        try:
            self.change(partial(join_group, join_request=join_request, now_ms=self.now_ms, max_members=MAX_MEMBERS))
        except GroupMaxSizeReached:
            assert len(self.group.members) >= MAX_MEMBERS
            return
        for other in same_place:
            other.fenced = True
        client.fenced, client.honest = False, True
        self.take_beat(
            join_request.member_id, self.group.members[join_request.member_id].member_epoch, None, released=True
        )
        if not lost:
            client.hear(self.group.members[join_request.member_id], self.now_ms, stops_at_once=True)

    def send_beat(
        self,
        client: Client,
        *,
        owned: Collection[Partition] | None,
        released: bool = False,
        lost: bool = False,
        stops_at_once: bool = True,
    ) -> None:
        assert client.epoch is not None
        member_id = client.join_request.member_id
        try:
            self.take_beat(member_id, client.epoch, owned, released=released)
        except (FencedMemberEpoch, FencedInstanceId, UnknownMemberId) as refusal:
            self.check_refusal(client, refusal)
            if not lost:
                client.drop()
            return
        assert not client.fenced
        if not lost:
            client.hear(self.group.members[member_id], self.now_ms, stops_at_once=stops_at_once)

    def send_honest_beat(
        self, client: Client, *, lost: bool = False, stops_at_once: bool = True, silent: bool = False
    ) -> None:
        if client.epoch is None:
            self.send_join(client, lost=lost)
        else:
            owned = None if silent else frozenset(client.working)
            self.send_beat(client, owned=owned, lost=lost, stops_at_once=stops_at_once)

    def check_refusal(self, client: Client, refusal: BrokerError) -> None:
        member = self.group.members.get(client.join_request.member_id)
        assert isinstance(refusal, FencedMemberEpoch) == (member is not None)
        if member is not None:
            assert refusal.facts == {"member_epoch": member.member_epoch}
            assert client.epoch != member.member_epoch

    @rule(join_request=WISHES, lost=MOSTLY_NOT)
    def a_process_starts(self, join_request: JoinRequest, lost: bool) -> None:
        client = Client(join_request)
        self.send_join(client, lost=lost)
        self.clients.append(client)

    @rule(who=WHO, subscription=SUBSCRIPTIONS, lost=MOSTLY_NOT, other=MOSTLY_NOT)
    def a_process_joins_again(self, who: int, subscription: Subscription, lost: bool, other: bool) -> None:
        if client := self.client(who):
            if other:
                client.join_request = replace(client.join_request, subscription=subscription)
            self.send_join(client, lost=lost)

    @rule(who=WHO, lost=MOSTLY_NOT, stops_at_once=st.booleans(), silent=MOSTLY_NOT)
    def a_client_beats(self, who: int, lost: bool, stops_at_once: bool, silent: bool) -> None:
        if client := self.client(who):
            self.send_honest_beat(client, lost=lost, stops_at_once=stops_at_once, silent=silent)

    @rule(lost=SOME, seldom=SOME, slow=SOME)
    def a_second_passes_in_which_all_beat(self, lost: int, seldom: int, slow: int) -> None:
        self.now_ms += 1_000
        self.the_rebalancer_runs()
        for who, client in enumerate(self.clients):
            self.send_honest_beat(client, lost=bool(lost & seldom & 1 << who), stops_at_once=not slow & 1 << who)

    @rule(who=WHO, lost=MOSTLY_NOT)
    def a_client_polls(self, who: int, lost: bool) -> None:
        client = self.client(who)
        if client is not None and client.epoch is not None:
            client.working = set()  # all was processed and is committed with the poll
            client.told_ms = None
            self.send_beat(client, owned=None, released=True, lost=lost)

    @rule(who=WHO, lies=st.sets(st.tuples(st.integers(1, 4), st.integers(0, 3))), lost=MOSTLY_NOT)
    def a_client_lies_about_what_it_owns(self, who: int, lies: set[Partition], lost: bool) -> None:
        client = self.client(who)
        if client is not None and client.epoch is not None:
            client.honest = client.honest and client.working <= lies
            self.send_beat(client, owned=lies, lost=lost, stops_at_once=False)

    @rule(who=WHO)
    def a_client_commits(self, who: int) -> None:
        client = self.client(who)
        if client is None or client.epoch is None:
            return
        try:
            member = find_member(self.group, client.join_request.member_id)
        except BrokerError:
            return
        alive = {(shape.topic_id, n) for shape in self.shapes.values() for n in range(shape.partitions)}
        working = sorted(client.working & alive)
        if client.fenced:
            assert check_commit(member, client.epoch, working) == working
        elif client.honest:
            assert check_commit(member, client.epoch, sorted(client.believes(self.now_ms) & alive)) == []
        with pytest.raises(FencedMemberEpoch):
            check_commit(member, member.member_epoch + 1, working)

    @rule(who=WHO, killed=st.booleans())
    def a_process_ends(self, who: int, killed: bool) -> None:
        if client := self.client(who):
            self.clients.remove(client)
            if not killed and not client.fenced and client.join_request.member_id in self.group.members:
                self.change(partial(leave_group, member_id=client.join_request.member_id, now_ms=self.now_ms))

    # ── topics, time and the rebalancer ──

    @initialize(partitions=st.integers(1, 4), wishes=st.lists(WISHES, min_size=2, max_size=3))
    def a_group_is_there(self, partitions: int, wishes: list[JoinRequest]) -> None:
        self.create("orders", partitions)
        for join_request in wishes:
            self.a_process_starts(join_request, lost=False)

    @rule(name=TOPICS, event=st.sampled_from(["created", "grown", "grown", "deleted", "made again"]))
    def topics_change(self, name: str, event: str) -> None:
        shape = self.shapes.get(name)
        if shape is None:
            self.create(name, 2)
        elif event == "grown":
            self.shapes[name] = TopicMetadata(shape.topic_id, shape.partitions + 1)
        elif event != "created":
            del self.shapes[name]
            if event == "made again":
                self.create(name, 1)

    def create(self, name: str, partitions: int) -> None:
        self.topics_made += 1
        self.shapes[name] = TopicMetadata(self.topics_made, partitions)

    @rule(
        ms=st.sampled_from([1, 400, 1_000, 1_000, 2_500, 2_500, 4_000, 4_000, 10_000, 30_000, 400_000]),
        rebalancer=st.booleans(),
    )
    def time_passes(self, ms: int, rebalancer: bool) -> None:
        self.now_ms += ms
        if rebalancer:
            self.the_rebalancer_runs()

    def the_rebalancer_runs(self) -> None:
        before = self.group.members
        self.change(partial(expire_members, now_ms=self.now_ms))
        for name in before.keys() - self.group.members.keys():
            join_request = before[name].join_request
            silent = self.now_ms - self.heard_ms[name] >= join_request.session_timeout_ms * 2 / 3
            asked_ms = self.asked_ms[name] if before[name].revoking else self.now_ms
            assert silent or self.now_ms - asked_ms >= join_request.rebalance_timeout_ms
        for name, member in self.group.members.items():
            assert self.now_ms - self.heard_ms[name] < member.join_request.session_timeout_ms
        self.change(partial(assignment.notice_topics, topics=self.shapes, now_ms=self.now_ms))

    def all_behave_until_it_is_quiet(self) -> None:
        for _ in range(40):
            self.now_ms += 2_500
            self.the_rebalancer_runs()
            for client in self.clients:
                if not client.fenced:
                    self.send_honest_beat(client)
            self.clients = [client for client in self.clients if not client.fenced]
            self.no_two_clients_read_the_same()
            joined = {client.join_request.member_id: client for client in self.clients if client.epoch is not None}
            if (
                self.group.state in {"STABLE", "EMPTY"}
                and len(joined) == min(len(self.clients), MAX_MEMBERS)
                and {name: client.working for name, client in joined.items()}
                == {name: member.assigned.keys() for name, member in self.group.members.items()}
            ):
                break
        else:
            pytest.fail("the group never came to rest")
        owners = Counter(p for client in joined.values() for p in client.believes(self.now_ms))
        assert owners == dict.fromkeys(self.subscribed(self.group), 1)

    def teardown(self) -> None:
        if self.clients:
            self.all_behave_until_it_is_quiet()

    # ── what always holds ──

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        holders = Counter(
            p for member in self.group.members.values() for p in member.assigned.keys() | member.revoking.keys()
        )
        assert not holders or max(holders.values()) == 1
        assert not any(member.assigned.keys() & member.revoking for member in self.group.members.values())

    @invariant()
    def no_two_clients_read_the_same(self) -> None:
        readers = Counter(
            p for client in self.clients if client.honest and not client.fenced for p in client.believes(self.now_ms)
        )
        assert not readers or max(readers.values()) == 1

    @invariant()
    def an_assignment_is_due_while_the_group_has_changed(self) -> None:
        group = self.group
        assert (group.assign_at_ms is None) == (group.assignment_epoch == group.group_epoch)
        assert (group.empty_since_ms is None) == bool(group.members)
        assert group.assign_at_ms is None or group.assign_at_ms <= self.now_ms + 1_000

    @invariant()
    def an_instance_is_one_member(self) -> None:
        instances = Counter(member.join_request.instance_id for member in self.group.members.values())
        assert all(count == 1 for name, count in instances.items() if name is not None)


ConsumerGroup.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_every_partition_is_read_by_one_at_a_time_and_in_the_end_by_somebody = ConsumerGroup.TestCase
