"""Consumer groups with their members: found, loaded under a lock, and saved after a step."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from sqlalchemy import bindparam, case, delete, func, select, update

from app.domain.groups.group import Group, GroupState, Reason
from app.domain.groups.member import Subscription
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import consumer_groups, group_members, group_offsets, group_rebalances
from app.storage.db.transaction import Tx
from app.storage.groups import members

_groups, _members = consumer_groups.c, group_members.c


class GroupDetails(msgspec.Struct, frozen=True, array_like=True):
    """Fields of a group that are stored as MessagePack; see `Group`."""

    topics: dict[int, int]
    initial_partitions: dict[int, int]
    assigned_subscriptions: tuple[Subscription, ...]
    reasons: tuple[Reason, ...]


class GroupSummary(NamedTuple):
    """A group in a list."""

    name: str
    state: GroupState
    group_epoch: int
    assignment_epoch: int
    members: int


_encode = msgspec.msgpack.Encoder().encode
decode_group_details = msgspec.msgpack.Decoder(GroupDetails).decode
_group_columns = (
    _groups.group_id,
    _groups.name,
    _groups.group_epoch,
    _groups.assignment_epoch,
    _groups.assigned_at_ms,
    _groups.assign_at_ms,
    _groups.empty_since_ms,
    _groups.details,
)
_GROUP = CompiledStatement(select(*_group_columns).where(_groups.name == bindparam("name")))
_GROUP_LOCKED = CompiledStatement(select(*_group_columns).where(_groups.name == bindparam("name")).with_for_update())
_of_group = select(*members.columns).where(_members.group_id == bindparam("group_id")).order_by(_members.member_id)
_MEMBERS = CompiledStatement(_of_group)
_MEMBERS_LOCKED = CompiledStatement(_of_group.with_for_update())
_MEMBER_KEY = ("group_id", "member_id")
_COUNT = select(func.count()).select_from(consumer_groups)
_UPDATE_GROUP = (
    update(consumer_groups)
    .where(_groups.group_id == bindparam("id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "group_epoch",
                "assignment_epoch",
                "assigned_at_ms",
                "assign_at_ms",
                "empty_since_ms",
                "details",
            )
        }
    )
)
_DELETE_MEMBERS = delete(group_members).where(
    _members.group_id == bindparam("id"), _members.member_id.in_(bindparam("names", expanding=True))
)
_page = (
    select(_groups.group_id, _groups.name, _groups.group_epoch, _groups.assignment_epoch)
    .where(_groups.name > bindparam("after"))
    .order_by(_groups.name)
    .limit(bindparam("at_most"))
    .subquery()
)
_LIST = (
    select(
        _page.c.name,
        _page.c.group_epoch,
        _page.c.assignment_epoch,
        func.count(_members.member_id),
        func.coalesce(
            func.sum(
                case(((_members.reconciled == 1) & (_members.member_epoch == _page.c.assignment_epoch), 0), else_=1)
            ),
            0,
        ),
    )
    .outerjoin(group_members, _members.group_id == _page.c.group_id)
    .group_by(_page.c.name, _page.c.group_epoch, _page.c.assignment_epoch)
    .order_by(_page.c.name)
)


def find(tx: Tx, name: str) -> Group | None:
    """Return a group with its members, or None."""
    return _load(tx, _GROUP, _MEMBERS, name)


def load(tx: Tx, name: str) -> Group | None:
    """Lock a group and all its members until the transaction ends, and return it, or None."""
    return _load(tx, _GROUP_LOCKED, _MEMBERS_LOCKED, name)


def create(tx: Tx, name: str, at_ms: int) -> None:
    """Create a group without members, if no group has this name."""
    tx.connection.execute(
        tx.dialect.insert(consumer_groups)
        .values(_group_row(Group(group_id=0, name=name, empty_since_ms=at_ms)) | {"name": name})
        .on_conflict_do_nothing(index_elements=["name"])
    )


def count(tx: Tx) -> int:
    """Return the number of groups."""
    return int(tx.connection.execute(_COUNT).scalar_one())


def save(tx: Tx, before: Group, after: Group) -> None:
    """Store what a step changed in a locked group."""
    if replace(before, members={}) != replace(after, members={}):
        values = {f"new_{name}": value for name, value in _group_row(after).items()}
        tx.connection.execute(_UPDATE_GROUP, values | {"id": after.group_id})
    if gone := sorted(before.members.keys() - after.members.keys()):
        tx.connection.execute(_DELETE_MEMBERS, {"id": after.group_id, "names": gone})
    changed = [
        members.row(after, member)
        for name, member in sorted(after.members.items())
        if before.members.get(name) != member
    ]
    if changed:
        columns = tuple(name for name in changed[0] if name not in _MEMBER_KEY)
        tx.connection.execute(tx.dialect.upsert(group_members, _MEMBER_KEY, columns), changed)


def touch(tx: Tx, group: Group, at_ms: int) -> None:
    """Restart the retention of the offsets of a locked group without members."""
    save(tx, group, replace(group, empty_since_ms=at_ms))


def delete_(tx: Tx, group: Group) -> None:
    """Delete a locked group without members, with its offsets and history."""
    for table in (group_offsets, group_rebalances, consumer_groups):
        tx.connection.execute(delete(table).where(table.c.group_id == group.group_id))


def list_(tx: Tx, after: str, limit: int) -> list[GroupSummary]:
    """Return up to `limit` groups in the order of their names, from the first name above `after`."""
    rows = tx.connection.execute(_LIST, {"after": after, "at_most": limit})
    return [
        GroupSummary(name, _state(epoch, assignment_epoch, members, reconciling), epoch, assignment_epoch, members)
        for name, epoch, assignment_epoch, members, reconciling in rows
    ]


def _state(group_epoch: int, assignment_epoch: int, members: int, reconciling: int) -> GroupState:
    if not members:
        return "EMPTY"
    if assignment_epoch < group_epoch:
        return "ASSIGNING"
    return "RECONCILING" if reconciling else "STABLE"


def _load(tx: Tx, group_statement: CompiledStatement, members_statement: CompiledStatement, name: str) -> Group | None:
    found = group_statement.rows(tx, {"name": name})
    if not found:
        return None
    group_id, name, group_epoch, assignment_epoch, assigned_at_ms, assign_at_ms, empty_since_ms, encoded = found[0]
    details = decode_group_details(encoded)
    loaded = [members.decode(*row) for row in members_statement.rows(tx, {"group_id": group_id})]
    return Group(
        group_id=group_id,
        name=name,
        group_epoch=group_epoch,
        assignment_epoch=assignment_epoch,
        assigned_at_ms=assigned_at_ms,
        assign_at_ms=assign_at_ms,
        empty_since_ms=empty_since_ms,
        topics=details.topics,
        initial_partitions=details.initial_partitions,
        assigned_subscriptions=details.assigned_subscriptions,
        reasons=details.reasons,
        members={member.join_request.member_id: member for member in loaded},
    )


def _group_row(group: Group) -> dict[str, object]:
    details = GroupDetails(group.topics, group.initial_partitions, group.assigned_subscriptions, group.reasons)
    return {
        "group_epoch": group.group_epoch,
        "assignment_epoch": group.assignment_epoch,
        "assigned_at_ms": group.assigned_at_ms,
        "assign_at_ms": group.assign_at_ms,
        "empty_since_ms": group.empty_since_ms,
        "details": _encode(details),
    }
