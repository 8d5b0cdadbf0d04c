"""Initial offsets: where a group starts in a partition without a committed offset."""

from __future__ import annotations

from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group
from app.domain.groups.offset_reset import duration_ms
from app.domain.log.offset_spec import Earliest, Latest, OffsetSpec, Since
from app.storage.db.transaction import Tx
from app.storage.groups import offsets
from app.storage.log import offset_lookup, pages
from app.storage.log.pages import Bounds

_CHUNK = 8_192


def resolve(tx: Tx, before: Group, after: Group, now_ms: int) -> None:
    """Commit an initial offset for each partition that a step assigned and that has no committed offset.

    The member's auto_offset_reset decides, once. A partition that was added to a topic after the group subscribed is
    read from its start, so that no record of it is missed.
    """
    gained = _gained(before, after)
    if not gained:
        return
    committed = offsets.committed(tx, after.group_id, gained)
    uncommitted = {partition: reset for partition, reset in gained.items() if partition not in committed}
    ids = offsets.partition_ids(tx, uncommitted)
    bounds: dict[int, Bounds] = {}
    for some in offsets.chunks(sorted(ids.values()), _CHUNK):
        bounds |= pages.bounds(tx, some)
    starts: dict[Partition, int] = {}
    for partition, partition_id in ids.items():
        added = partition[1] >= after.initial_partitions.get(partition[0], 0)
        reset = "earliest" if added else uncommitted[partition]
        if reset != "none" and partition_id in bounds:
            starts[partition] = offset_lookup.resolve(tx, bounds[partition_id], _spec(reset, now_ms))
    if starts:
        offsets.begin(tx, after.group_id, starts, now_ms)


def _gained(before: Group, after: Group) -> dict[Partition, str]:
    """Return the partitions that a step assigned to members, each with the member's auto_offset_reset."""
    gained: dict[Partition, str] = {}
    for name, member in after.members.items():
        old = before.members.get(name)
        if old is not member:
            held = old.assigned if old is not None else {}
            new = member.assigned.keys() - held.keys()
            gained |= dict.fromkeys(new, member.join_request.auto_offset_reset)
    return gained


def _spec(reset: str, now_ms: int) -> OffsetSpec:
    if reset == "latest":
        return Latest()
    back_ms = duration_ms(reset)
    return Earliest() if back_ms is None else Since(max(0, now_ms - back_ms))
