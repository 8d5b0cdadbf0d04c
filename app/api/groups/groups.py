"""Consumer groups: list, describe, their rebalances, delete."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.groups.group_structs import TopicPartitions, check_group
from app.api.groups.members import MemberAnswer, member_answer
from app.api.http.call import Call, Reply
from app.api.http.lists import visible_page
from app.api.http.operations import Description, OperationRoute, describe
from app.domain.access.permission import ANY_PRINCIPAL, on
from app.domain.groups.group import GroupState
from app.errors.groups import GroupIdNotFound, NonEmptyGroup
from app.errors.log import InvalidCursor

router = APIRouter(prefix="/v1/groups", tags=["groups"], route_class=OperationRoute)


class GroupListQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The page of the list."""

    limit: Annotated[int, Meta(ge=1, le=1_000, description="Number of items on a page.")] = 100
    cursor: Annotated[str | None, Meta(description="next_cursor of the previous page.", examples=["YmlsbGluZw=="])] = (
        None
    )


class GroupSummaryAnswer(msgspec.Struct):
    """A group in a list."""

    name: str
    state: GroupState
    group_epoch: int
    assignment_epoch: int
    members: int


class GroupList(msgspec.Struct):
    """A page of groups in the order of their names; `next_cursor` is null at the end."""

    items: list[GroupSummaryAnswer]
    next_cursor: str | None


class GroupAnswer(msgspec.Struct):
    """A group with its members in the order of their names."""

    name: str
    state: GroupState
    group_epoch: int
    assignment_epoch: int
    members: list[MemberAnswer]


class Holding(msgspec.Struct):
    """The target assignment of a member before and after a rebalance."""

    member_id: str
    before: list[TopicPartitions]
    after: list[TopicPartitions]


class RebalanceAnswer(msgspec.Struct):
    """One rebalance: its time, its reasons, and the target assignments."""

    group_epoch: int
    at_ms: int
    reasons: list[str]
    moved_partitions: int
    members: list[Holding]


class RebalanceList(msgspec.Struct):
    """The last rebalances of a group, the newest first."""

    rebalances: list[RebalanceAnswer]


@router.get("")
@describe(Description(permission=ANY_PRINCIPAL, answers={200: GroupList}, errors=(InvalidCursor,)))
async def list_groups(call: Call, query: GroupListQuery) -> Reply:
    """List the groups in the order of their names.

    A group with its members, and their partitions, is at `GET /v1/groups/{group}`.
    """
    page, cursor = await visible_page(call, "group", call.services.groups.list_, query)
    return Reply.of(GroupList([GroupSummaryAnswer(*group) for group in page], cursor))


@router.get("/{group}/rebalances")
@describe(
    Description(
        permission=on("group", "describe"),
        answers={200: RebalanceList},
        errors=(GroupIdNotFound,),
        examples={"group": "billing"},
    )
)
async def list_rebalances(call: Call, group: str) -> Reply:
    """List the last rebalances of a group: times, reasons, and target assignments before and after.

    The newest is first. `moved_partitions` counts the partitions that another member holds afterwards.
    """
    check_group(group)
    found = await call.services.groups.rebalances(group)
    return Reply.of(
        RebalanceList(
            [
                RebalanceAnswer(
                    one.group_epoch,
                    one.at_ms,
                    one.reasons,
                    _moved(one.before, one.after),
                    [
                        Holding(name, _by_topic(one.before.get(name, [])), _by_topic(one.after.get(name, [])))
                        for name in sorted(one.before.keys() | one.after.keys())
                    ],
                )
                for one in found
            ]
        )
    )


@router.get("/{group}")
@describe(
    Description(
        permission=on("group", "describe"),
        answers={200: GroupAnswer},
        errors=(GroupIdNotFound,),
        examples={"group": "billing"},
    )
)
async def get_group(call: Call, group: str) -> Reply:
    """Describe a group: its state, epochs, and members with their partitions.

    A group is `EMPTY` without members, `ASSIGNING` before its new assignment is computed, and `RECONCILING` while its
    members move to that. Committed offsets and the lag are at `GET /v1/groups/{group}/offsets`.
    """
    check_group(group)
    found = await call.services.groups.get(group)
    members = [await member_answer(call, member, found.assignment_epoch) for _, member in sorted(found.members.items())]
    return Reply.of(GroupAnswer(found.name, found.state, found.group_epoch, found.assignment_epoch, members))


@router.delete("/{group}")
@describe(
    Description(
        permission=on("group", "delete"),
        answers={204: None},
        errors=(GroupIdNotFound, NonEmptyGroup),
        examples={"group": "billing"},
    )
)
async def delete_group(call: Call, group: str) -> Reply:
    """Delete a group without members, with its committed offsets.

    While the group has members, the answer is 409: let them leave first. A new group with this name starts at the
    `auto_offset_reset` of its members.
    """
    check_group(group)
    await call.services.groups.delete(group)
    return Reply(b"", 204)


def _by_topic(partitions: list[tuple[str, int]]) -> list[TopicPartitions]:
    found: dict[str, list[int]] = {}
    for topic, number in partitions:
        found.setdefault(topic, []).append(number)
    return [TopicPartitions(topic, sorted(numbers)) for topic, numbers in sorted(found.items())]


def _moved(before: dict[str, list[tuple[str, int]]], after: dict[str, list[tuple[str, int]]]) -> int:
    """Return the number of partitions that moved from one member to another."""
    held = {partition: name for name, partitions in before.items() for partition in partitions}
    return sum(held.get(partition, name) != name for name, partitions in after.items() for partition in partitions)
