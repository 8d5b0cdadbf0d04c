"""Structs and checks that join, heartbeat, poll and commit share: names, join requests, assignments, offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal
from uuid import uuid4

import msgspec
from msgspec import Meta

from app.api.http.call import Call
from app.api.log.warnings import FieldWarning, duration_warning
from app.broker.groups.offsets import OffsetCommit
from app.domain.groups.assignor import Partition
from app.domain.groups.member import JoinRequest, MemberState, Subscription
from app.domain.groups.offset_reset import check_offset_reset
from app.domain.log.topic import check_name
from app.errors.broker_error import BrokerError
from app.errors.groups import InvalidGroupId, OffsetMetadataTooLarge
from app.errors.http import InvalidRequest
from app.storage.groups.members import MemberSnapshot

MAX_INT64 = 2**63 - 1
MAX_METADATA_BYTES = 4_096
MOST_OFFSETS = 10_000
_MOST_TOPICS = 1_000
_MAX_TIMEOUT_MS = 1_800_000

Epoch = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Offset = Annotated[int, Meta(ge=0, le=MAX_INT64)]
PartitionNumber = Annotated[int, Meta(ge=0, le=MAX_INT64)]


class TopicPartitions(msgspec.Struct, forbid_unknown_fields=True):
    """Some partitions of a topic."""

    topic: str
    partitions: list[PartitionNumber]


class Membership(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The settings with which a member joins."""

    topics: Annotated[
        Annotated[list[str], Meta(max_length=_MOST_TOPICS)] | None,
        Meta(description="Topics to read, by name; they need not exist yet."),
    ] = None
    topic_pattern: Annotated[
        Annotated[str, Meta(min_length=1, max_length=249)] | None,
        Meta(description="Topics to read, by a glob such as `orders.*`; topics created later are included."),
    ] = None
    client_id: Annotated[str, Meta(max_length=249, description="A name of the client, to be shown.")] = ""
    instance_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=249)] | None,
        Meta(description="Static membership: a member that joins with it replaces the member that had it."),
    ] = None
    auto_offset_reset: Annotated[
        str,
        Meta(
            max_length=64,
            description="Where a group starts in a partition: `earliest`, `latest`, `none` or `by_duration:PT1H`.",
        ),
    ] = "earliest"
    session_timeout_ms: Annotated[
        int, Meta(ge=1_000, le=_MAX_TIMEOUT_MS, description="A member without a heartbeat for this time is removed.")
    ] = 45_000
    rebalance_timeout_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=_MAX_TIMEOUT_MS,
            description="A member that keeps a revoked partition for this time is removed.",
        ),
    ] = 300_000
    assignor: Literal["uniform", "range"] = "uniform"


class AssignmentAnswer(msgspec.Struct, omit_defaults=True):
    """The partitions that a member may read. If it has shrunk: stop, commit, and send `owned` in the next heartbeat.

    `missing_topics` of a join names its `topics` that do not exist; they are assigned once they are created. `warnings`
    of a join has the time-outs that are very likely in seconds.
    """

    member_id: str
    member_epoch: int
    assignment: list[TopicPartitions]
    state: MemberState
    session_timeout_ms: int
    heartbeat_interval_ms: int
    missing_topics: list[str] = []
    warnings: list[FieldWarning] = []


class CommittedOffset(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An offset to commit: that of the next record to read."""

    topic: str
    partition: PartitionNumber
    offset: Offset
    from_offset: Annotated[
        Offset | None,
        Meta(description="Commit only if this is the committed offset; success too if it is already `offset`."),
    ] = None
    metadata: str = ""


def check_group(name: str) -> None:
    """Refuse an invalid name of a group.

    Raises:
        InvalidGroupId: With the rule.
    """
    check_name(name, "group", InvalidGroupId)


def check_member(name: str) -> None:
    """Refuse an invalid name of a member.

    Raises:
        InvalidRequest: With the rule.
    """
    check_name(name, "member", InvalidRequest)


def new_member_id() -> str:
    """Return a generated name of a member."""
    return str(uuid4())


def join_request_of(member_id: str, body: Membership) -> JoinRequest:
    """Return the join request of a body.

    Raises:
        InvalidRequest, InvalidTopicName: A field is invalid, or no topics are given.
    """
    check_member(member_id)
    if not body.topics and body.topic_pattern is None:
        detail = "name topics, or give a topic_pattern"
        raise InvalidRequest.at(None, "topics", detail, message=detail)
    for name in body.topics or ():
        check_name(name, "topic")
    check_offset_reset(body.auto_offset_reset)
    return JoinRequest(
        member_id=member_id,
        subscription=Subscription(tuple(sorted(set(body.topics or ()))), body.topic_pattern),
        client_id=body.client_id,
        instance_id=body.instance_id,
        auto_offset_reset=body.auto_offset_reset,
        assignor=body.assignor,
        session_timeout_ms=body.session_timeout_ms,
        rebalance_timeout_ms=body.rebalance_timeout_ms,
    )


async def readable_join_request(call: Call, join_request: JoinRequest) -> JoinRequest:
    """Return a join request for topics that the principal may read.

    A pattern becomes the topics that match it now and that the principal may read; each join and poll looks again.

    Raises:
        TopicAuthorizationFailed: The principal may not read a topic that the request names.
    """
    access, subscription = call.access, join_request.subscription
    if access is None:
        return join_request
    for name in subscription.topics:
        access.require("read", "topic", name)
    if subscription.topic_pattern is None or access.identity.principal.is_admin:
        return join_request
    names = await call.services.topics.names()
    readable = [name for name in names if subscription.matches(name) and access.allows("read", "topic", name)]
    return msgspec.structs.replace(join_request, subscription=Subscription((*subscription.topics, *readable)))


def owned_of(given: Sequence[TopicPartitions] | None) -> frozenset[tuple[str, int]] | None:
    """Return topic and partition of what a member owns, or None if that is not given."""
    return None if given is None else frozenset((one.topic, number) for one in given for number in one.partitions)


def commits_of(given: Sequence[CommittedOffset]) -> list[OffsetCommit]:
    """Return offsets to commit.

    Raises:
        OffsetMetadataTooLarge, InvalidRequest: With the index.
    """
    for index, one in enumerate(given):
        if len(one.metadata.encode()) > MAX_METADATA_BYTES:
            raise _bad_metadata(OffsetMetadataTooLarge, index, f"must be at most {MAX_METADATA_BYTES} bytes")
        if "\0" in one.metadata:
            raise _bad_metadata(InvalidRequest, index, "must not contain the character U+0000")
    return [OffsetCommit(one.topic, one.partition, one.offset, one.from_offset, one.metadata) for one in given]


def _bad_metadata(kind: type[BrokerError], index: int, detail: str) -> BrokerError:
    return kind.at(index, "metadata", detail, item="offset")


async def assignment_of(call: Call, partitions: Iterable[Partition]) -> list[TopicPartitions]:
    """Return partitions by topic, in the order of names; those of deleted topics are left out."""
    topics = call.services.topics
    partitions = sorted(partitions)
    await topics.load_topics_of(partitions)
    found: dict[str, list[int]] = {}
    for topic_id, number in partitions:
        if (found_partition := topics.find_partition(topic_id, number)) is not None:
            found.setdefault(found_partition[0], []).append(number)
    return [TopicPartitions(name, numbers) for name, numbers in sorted(found.items())]


def timeout_warnings(given: Membership) -> list[FieldWarning]:
    """Return warnings of the time-outs of a join that are probably in seconds."""
    return [
        *duration_warning("session_timeout_ms", given.session_timeout_ms, _MAX_TIMEOUT_MS),
        *duration_warning("rebalance_timeout_ms", given.rebalance_timeout_ms, _MAX_TIMEOUT_MS),
    ]


async def assignment_answer(call: Call, snapshot: MemberSnapshot) -> AssignmentAnswer:
    """Return the answer to a join or a heartbeat."""
    member = snapshot.member
    return AssignmentAnswer(
        member.join_request.member_id,
        member.member_epoch,
        await assignment_of(call, member.assigned),
        member.state(snapshot.assignment_epoch),
        member.join_request.session_timeout_ms,
        member.heartbeat_interval_ms,
    )
