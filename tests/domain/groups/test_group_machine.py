"""A state machine of a consumer group with clients that keep their own assignment, and answers that may be lost.

The clients follow the protocol: they stop reading revoked partitions, at once or some time after the answer, and stop
reading all partitions when a request is refused or when no answer came during a session. Some send a wrong `owned`.
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
from app.domain.groups.group import Group, expire_members, find_member, join_group, leave_group, take_heartbeat
from app.domain.groups.member import JoinRequest, Member, Subscription, check_commit
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
JOIN_REQUESTS = st.builds(
    JoinRequest,
    member_id=st.sampled_from(["alice", "bob", "carol", "dave", "eve"]),
    instance_id=st.sampled_from([None, None, None, "one", "two"]),
    subscription=SUBSCRIPTIONS,
    assignor=st.sampled_from(["uniform", "uniform", "uniform", "range"]),
    session_timeout_ms=st.sampled_from([12_000, 45_000]),
    rebalance_timeout_ms=st.sampled_from([10_000, 300_000]),
)
TOPICS = st.sampled_from(["orders", "orders.eu", "audit", "__own"])
CLIENT_INDEX = st.integers(0, 9)
SOME = st.integers(0, 1023)
MOSTLY_NOT = st.sampled_from([False, False, False, True])


@dataclass
class Client:
    """A process that consumes.

    Attributes:
        working: Partitions that it reads or still processes.
        answered_ms: Time at which it sent the last request that was answered.
        revoked_after_ms: A time before which none of the partitions that it still processes was revoked, or None.
        fenced: Whether another process has replaced it, even if it has not been refused yet.
        honest: Whether `owned` has always included all partitions that it works on.
    """

    join_request: JoinRequest
    epoch: int | None = None
    working: set[Partition] = field(default_factory=set)
    answered_ms: int = 0
    revoked_after_ms: int | None = None
    fenced: bool = False
    honest: bool = True

    def readable(self, now_ms: int) -> set[Partition]:
        """Return the partitions that it works on; none once its session or its revocation has timed out."""
        longest_ms = min(self.join_request.session_timeout_ms * 2 / 3, self.join_request.rebalance_timeout_ms)
        too_slow = (
            self.revoked_after_ms is not None
            and now_ms - self.revoked_after_ms >= self.join_request.rebalance_timeout_ms
        )
        return set() if too_slow or now_ms - self.answered_ms >= longest_ms else self.working

    def take_answer(self, member: Member, sent_ms: int, *, stops_at_once: bool) -> None:
        may_read = set(member.assigned)
        self.working = may_read if stops_at_once else self.working | may_read
        self.revoked_after_ms = None if self.working == may_read else (self.revoked_after_ms or self.answered_ms)
        self.epoch, self.answered_ms = member.member_epoch, sent_ms

    def drop(self) -> None:
        self.epoch, self.working, self.revoked_after_ms = None, set(), None


class ConsumerGroup(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_700_000_000_000
        self.group = Group(group_id=1, name="g", empty_since_ms=self.now_ms)
        self.topics: dict[str, TopicMetadata] = {}
        self.topics_created = 0
        self.clients: list[Client] = []
        self.epochs: dict[str, int] = {}
        self.heartbeat_ms: dict[str, int] = {}
        self.revoked_ms: dict[str, int] = {}
        self.assigned_at_ms: list[int] = []
        self.assigned_for: object = None

    # ── the broker ──

    def change(self, step: Callable[[Group], Group]) -> None:
        before = deepcopy(self.group)
        try:
            after = step(self.group)
        finally:
            assert self.group == before, "a step does not change its argument"
        self.apply(after)
        if after.assign_at_ms is not None and after.assign_at_ms <= self.now_ms:
            self.apply(self.update_target_assignment(after))

    def update_target_assignment(self, group: Group) -> Group:
        after, rebalance = assignment.update_target_assignment(group, self.topics, self.now_ms)
        holders = Counter(p for target in rebalance.targets.values() for p in target)
        assert holders == dict.fromkeys(self.subscribed(group), 1)
        had = {name: member.target for name, member in group.members.items()}
        assigned_for = (
            {
                name: (join_request.subscription, join_request.assignor, join_request.instance_id)
                for name, join_request in self.join_requests(group).items()
            },
            self.topics.copy(),
        )
        if assigned_for == self.assigned_for and sum(map(len, had.values())) == len(holders):
            assert {name: member.target for name, member in after.members.items()} == had, "no needless moves"
        self.assigned_for = assigned_for
        assert not self.assigned_at_ms or self.now_ms - self.assigned_at_ms[-1] >= 1_000
        self.assigned_at_ms.append(self.now_ms)
        return after

    def join_requests(self, group: Group) -> dict[str, JoinRequest]:
        return {name: member.join_request for name, member in group.members.items()}

    def apply(self, after: Group) -> None:
        before, self.group = self.group, after
        assert after.group_epoch >= before.group_epoch
        assert after.assignment_epoch >= before.assignment_epoch
        for name, member in after.members.items():
            old = before.members.get(name)
            known = self.epochs.get(name, 0)
            assert member.member_epoch >= known if old is not None else member.member_epoch > known
            self.epochs[name] = member.member_epoch
            if member.revoking.keys() - (old.revoking.keys() if old is not None else set()):
                self.revoked_ms[name] = self.now_ms

    def subscribed(self, group: Group) -> list[Partition]:
        return [
            (topic.topic_id, n)
            for name, topic in self.topics.items()
            if any(member.join_request.subscription.matches(name) for member in group.members.values())
            for n in range(topic.partitions)
        ]

    def heartbeat(self, member_id: str, epoch: int, owned: Collection[Partition] | None, *, released: bool) -> None:
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
            assert step(self.group) == replace(self.group, members=renewed), "only the session is renewed"
        after = step(self.group)
        held = after.members[member_id].assigned.keys() | after.members[member_id].revoking.keys()
        if epoch == after.members[member_id].member_epoch or held.issuperset(owned or ()):
            assert self.repeated(step, after) == after, "a repeated request changes nothing"
        self.change(step)
        self.heartbeat_ms[member_id] = self.now_ms

    def repeated(self, step: Callable[[Group], Group], group: Group) -> Group | BrokerError:
        try:
            return step(group)
        except BrokerError as error:
            return error

    # ── clients ──

    def client(self, index: int) -> Client | None:
        return self.clients[index % len(self.clients)] if self.clients else None

    def send_join(self, client: Client, *, lost: bool) -> None:
        client.drop()
        join_request = client.join_request
        replaced = [
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
        for other in replaced:
            other.fenced = True
        client.fenced, client.honest = False, True
        self.heartbeat(
            join_request.member_id, self.group.members[join_request.member_id].member_epoch, None, released=True
        )
        if not lost:
            client.take_answer(self.group.members[join_request.member_id], self.now_ms, stops_at_once=True)

    def send_heartbeat(
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
            self.heartbeat(member_id, client.epoch, owned, released=released)
        except (FencedMemberEpoch, FencedInstanceId, UnknownMemberId) as error:
            self.check_error(client, error)
            if not lost:
                client.drop()
            return
        assert not client.fenced
        if not lost:
            client.take_answer(self.group.members[member_id], self.now_ms, stops_at_once=stops_at_once)

    def send_honest_heartbeat(
        self, client: Client, *, lost: bool = False, stops_at_once: bool = True, silent: bool = False
    ) -> None:
        if client.epoch is None:
            self.send_join(client, lost=lost)
        else:
            owned = None if silent else frozenset(client.working)
            self.send_heartbeat(client, owned=owned, lost=lost, stops_at_once=stops_at_once)

    def check_error(self, client: Client, error: BrokerError) -> None:
        member = self.group.members.get(client.join_request.member_id)
        assert isinstance(error, FencedMemberEpoch) == (member is not None)
        if member is not None:
            assert error.facts == {"member_epoch": member.member_epoch}
            assert client.epoch != member.member_epoch

    @rule(join_request=JOIN_REQUESTS, lost=MOSTLY_NOT)
    def a_process_starts(self, join_request: JoinRequest, lost: bool) -> None:
        client = Client(join_request)
        self.send_join(client, lost=lost)
        self.clients.append(client)

    @rule(index=CLIENT_INDEX, subscription=SUBSCRIPTIONS, lost=MOSTLY_NOT, other=MOSTLY_NOT)
    def a_process_joins_again(self, index: int, subscription: Subscription, lost: bool, other: bool) -> None:
        if client := self.client(index):
            if other:
                client.join_request = replace(client.join_request, subscription=subscription)
            self.send_join(client, lost=lost)

    @rule(index=CLIENT_INDEX, lost=MOSTLY_NOT, stops_at_once=st.booleans(), silent=MOSTLY_NOT)
    def a_client_sends_a_heartbeat(self, index: int, lost: bool, stops_at_once: bool, silent: bool) -> None:
        if client := self.client(index):
            self.send_honest_heartbeat(client, lost=lost, stops_at_once=stops_at_once, silent=silent)

    @rule(lost=SOME, seldom=SOME, slow=SOME)
    def a_second_passes_in_which_all_send_heartbeats(self, lost: int, seldom: int, slow: int) -> None:
        self.now_ms += 1_000
        self.the_rebalancer_runs()
        for index, client in enumerate(self.clients):
            self.send_honest_heartbeat(
                client, lost=bool(lost & seldom & 1 << index), stops_at_once=not slow & 1 << index
            )

    @rule(index=CLIENT_INDEX, lost=MOSTLY_NOT)
    def a_client_polls(self, index: int, lost: bool) -> None:
        client = self.client(index)
        if client is not None and client.epoch is not None:
            client.working = set()  # all records are processed, and committed with the poll
            client.revoked_after_ms = None
            self.send_heartbeat(client, owned=None, released=True, lost=lost)

    @rule(index=CLIENT_INDEX, wrong=st.sets(st.tuples(st.integers(1, 4), st.integers(0, 3))), lost=MOSTLY_NOT)
    def a_client_sends_a_wrong_owned(self, index: int, wrong: set[Partition], lost: bool) -> None:
        client = self.client(index)
        if client is not None and client.epoch is not None:
            client.honest = client.honest and client.working <= wrong
            self.send_heartbeat(client, owned=wrong, lost=lost, stops_at_once=False)

    @rule(index=CLIENT_INDEX)
    def a_client_commits(self, index: int) -> None:
        client = self.client(index)
        if client is None or client.epoch is None:
            return
        try:
            member = find_member(self.group, client.join_request.member_id)
        except BrokerError:
            return
        alive = {(topic.topic_id, n) for topic in self.topics.values() for n in range(topic.partitions)}
        working = sorted(client.working & alive)
        if client.fenced:
            assert check_commit(member, client.epoch, working) == working
        elif client.honest:
            assert check_commit(member, client.epoch, sorted(client.readable(self.now_ms) & alive)) == []
        with pytest.raises(FencedMemberEpoch):
            check_commit(member, member.member_epoch + 1, working)

    @rule(index=CLIENT_INDEX, killed=st.booleans())
    def a_process_ends(self, index: int, killed: bool) -> None:
        if client := self.client(index):
            self.clients.remove(client)
            if not killed and not client.fenced and client.join_request.member_id in self.group.members:
                self.change(partial(leave_group, member_id=client.join_request.member_id, now_ms=self.now_ms))

    # ── topics, time and the rebalancer ──

    @initialize(partitions=st.integers(1, 4), join_requests=st.lists(JOIN_REQUESTS, min_size=2, max_size=3))
    def a_group_exists(self, partitions: int, join_requests: list[JoinRequest]) -> None:
        self.create("orders", partitions)
        for join_request in join_requests:
            self.a_process_starts(join_request, lost=False)

    @rule(name=TOPICS, event=st.sampled_from(["created", "grown", "grown", "deleted", "created again"]))
    def topics_change(self, name: str, event: str) -> None:
        topic = self.topics.get(name)
        if topic is None:
            self.create(name, 2)
        elif event == "grown":
            self.topics[name] = TopicMetadata(topic.topic_id, topic.partitions + 1)
        elif event != "created":
            del self.topics[name]
            if event == "created again":
                self.create(name, 1)

    def create(self, name: str, partitions: int) -> None:
        self.topics_created += 1
        self.topics[name] = TopicMetadata(self.topics_created, partitions)

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
            silent = self.now_ms - self.heartbeat_ms[name] >= join_request.session_timeout_ms * 2 / 3
            revoked_ms = self.revoked_ms[name] if before[name].revoking else self.now_ms
            assert silent or self.now_ms - revoked_ms >= join_request.rebalance_timeout_ms
        for name, member in self.group.members.items():
            assert self.now_ms - self.heartbeat_ms[name] < member.join_request.session_timeout_ms
        self.change(partial(assignment.schedule_on_topic_change, topics=self.topics, now_ms=self.now_ms))

    def all_send_heartbeats_until_the_group_is_stable(self) -> None:
        for _ in range(40):
            self.now_ms += 2_500
            self.the_rebalancer_runs()
            for client in self.clients:
                if not client.fenced:
                    self.send_honest_heartbeat(client)
            self.clients = [client for client in self.clients if not client.fenced]
            self.no_two_clients_read_the_same_partition()
            joined = {client.join_request.member_id: client for client in self.clients if client.epoch is not None}
            if (
                self.group.state in {"STABLE", "EMPTY"}
                and len(joined) == min(len(self.clients), MAX_MEMBERS)
                and {name: client.working for name, client in joined.items()}
                == {name: member.assigned.keys() for name, member in self.group.members.items()}
            ):
                break
        else:
            pytest.fail("the group never became stable")
        owners = Counter(p for client in joined.values() for p in client.readable(self.now_ms))
        assert owners == dict.fromkeys(self.subscribed(self.group), 1)

    def teardown(self) -> None:
        if self.clients:
            self.all_send_heartbeats_until_the_group_is_stable()

    # ── invariants ──

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        holders = Counter(
            p for member in self.group.members.values() for p in member.assigned.keys() | member.revoking.keys()
        )
        assert not holders or max(holders.values()) == 1
        assert not any(member.assigned.keys() & member.revoking for member in self.group.members.values())

    @invariant()
    def no_two_clients_read_the_same_partition(self) -> None:
        readers = Counter(
            p for client in self.clients if client.honest and not client.fenced for p in client.readable(self.now_ms)
        )
        assert not readers or max(readers.values()) == 1

    @invariant()
    def an_assignment_is_scheduled_exactly_while_the_group_has_changed(self) -> None:
        group = self.group
        assert (group.assign_at_ms is None) == (group.assignment_epoch == group.group_epoch)
        assert (group.empty_since_ms is None) == bool(group.members)
        assert group.assign_at_ms is None or group.assign_at_ms <= self.now_ms + 1_000

    @invariant()
    def an_instance_id_belongs_to_one_member(self) -> None:
        instances = Counter(member.join_request.instance_id for member in self.group.members.values())
        assert all(count == 1 for name, count in instances.items() if name is not None)


ConsumerGroup.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_every_partition_is_read_by_at_most_one_client_and_in_the_end_by_one = ConsumerGroup.TestCase
