"""Check consumer groups: epochs, owners of partitions, and committed offsets against the log."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection, func, select

from app.domain.groups.assignor import Partition
from app.domain.groups.member import Member
from app.storage.db.tables import clock_ticks, consumer_groups, group_members, group_offsets, group_rebalances
from app.storage.db.tables import group_ticks as ticks
from app.storage.groups import members
from app.storage.groups.groups import decode_group_details
from app.storage.verification.log import CheckedLog, decoded, rows_of
from app.storage.verification.report import Report

_groups, _members = consumer_groups.c, group_members.c
_GROUPS = select(
    _groups.group_id,
    _groups.name,
    _groups.group_epoch,
    _groups.assignment_epoch,
    _groups.empty_since_ms,
    _groups.details,
)
_MEMBERS = select(_members.group_id, _members.member_id, _members.reconciled, *members.columns).order_by(
    _members.group_id, _members.member_id
)
_OFFSETS = select(
    group_offsets.c.group_id, group_offsets.c.topic_id, group_offsets.c.partition, group_offsets.c.committed_offset
)
_REBALANCED = select(group_rebalances.c.group_id).distinct()
_TICKS = [(table.name, select(func.count()).select_from(table)) for table in (ticks, clock_ticks)]


class _Group:
    """A group, and what its members own so far."""

    def __init__(self, name: str, group_epoch: int, empty_since_ms: int | None) -> None:
        self.subject = f"group {name}"
        self.group_epoch = group_epoch
        self.empty_since_ms = empty_since_ms
        self.owners: dict[Partition, str] = {}
        self.members = 0


def check_groups(connection: Connection, log: CheckedLog, report: Report) -> None:
    """Check the groups with their members, offsets and history."""
    found: dict[int, _Group] = {}
    for group_id, name, group_epoch, assignment_epoch, empty_since_ms, details in rows_of(connection, _GROUPS):
        report.checked["consumer_groups"] += 1
        group = found[group_id] = _Group(name, group_epoch, empty_since_ms)
        decoded(report, group.subject, partial(decode_group_details, details))
        report.require(
            0 <= assignment_epoch <= group_epoch,
            "GROUPS",
            group.subject,
            f"its assignment_epoch is {assignment_epoch}, and its group_epoch {group_epoch}",
        )
    _check_members(connection, found, report)
    for group in found.values():
        is_empty = group.empty_since_ms is not None
        detail = f"it has {group.members} members and is {'' if is_empty else 'not '}marked as empty"
        report.require(is_empty == (group.members == 0), "GROUPS", group.subject, detail)
        group.owners.clear()
    _check_offsets(connection, found, log, report)
    for (group_id,) in connection.execute(_REBALANCED):
        report.require(group_id in found, "ORPHAN", f"group id {group_id}", "rebalances of no group")
    for name, count in _TICKS:
        rows = connection.execute(count).scalar_one()
        report.require(rows <= 1, "GROUPS", name, f"it has {rows} rows")


def _check_members(connection: Connection, found: dict[int, _Group], report: Report) -> None:
    for group_id, member_id, reconciled, *columns in rows_of(connection, _MEMBERS, 500):
        report.checked["group_members"] += 1
        group = found.get(group_id)
        if group is None:
            report.add("ORPHAN", f"member {member_id}", f"it has no group (group_id {group_id})")
            continue
        group.members += 1
        subject = f"{group.subject}, member {member_id}"
        member = decoded(report, subject, partial(members.decode, *columns))
        if member is not None:
            own_name = member.join_request.member_id
            report.require(own_name == member_id, "GROUPS", subject, f"its state is that of member {own_name}")
            _check_member(group, member_id, member, subject, report)
            is_reconciled = not member.revoking and member.assigned.keys() == member.target
            detail = f"it is {'' if reconciled else 'not '}stored as reconciled"
            report.require(bool(reconciled) == is_reconciled, "GROUPS", subject, detail)


def _check_member(group: _Group, name: str, member: Member, subject: str, report: Report) -> None:
    epochs = f"its epoch is {member.member_epoch}, and the group's {group.group_epoch}"
    report.require(member.member_epoch <= group.group_epoch, "GROUPS", subject, epochs)
    for partition in (*member.assigned, *member.revoking):
        owner = group.owners.setdefault(partition, name)
        detail = f"partition {partition[1]} of topic id {partition[0]} also belongs to member {owner}"
        report.require(owner == name, "GROUPS", subject, detail)


def _check_offsets(connection: Connection, found: dict[int, _Group], log: CheckedLog, report: Report) -> None:
    """Check committed offsets. Those of deleted topics stay until they are deleted in the background."""
    for group_id, topic_id, partition, committed_offset in rows_of(connection, _OFFSETS):
        report.checked["group_offsets"] += 1
        group = found.get(group_id)
        if group is None:
            report.add("ORPHAN", f"group id {group_id}", "committed offsets of no group")
            continue
        if (topic := log.topics.get(topic_id)) is None:
            continue
        subject = f"{group.subject}, {topic.name}/{partition}"
        end = log.end_of(topic_id, partition)
        if end is None:
            report.add("ORPHAN", subject, "a committed offset of a partition that does not exist")
        elif not 0 <= committed_offset <= end:
            report.add("ABOVE_END", subject, f"committed_offset is {committed_offset}, and log_end_offset {end}")
