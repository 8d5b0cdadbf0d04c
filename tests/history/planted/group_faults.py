"""Faults of groups, transactions and queues: fencing, assignment, commits, locks, delivery counts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from app.broker import transactions
from app.broker.groups import group_transactions, offsets
from app.broker.queues.deliveries import share_partition
from app.broker.transactions import Transactions
from app.domain.groups import assignment, group
from app.domain.queues import in_flight, queue, share_partition_state
from app.domain.queues.in_flight import AcknowledgeType, RecordState
from app.domain.queues.share_partition_state import SharePartitionState
from app.storage import groups
from app.storage.db import clock
from app.storage.groups import members
from tests.history.planted import group_scenarios
from tests.history.planted.fault import Fault, replacing

if TYPE_CHECKING:
    import pytest

    from app.broker.transactions import TransactionRequest, TransactionResult
    from app.domain.groups.group import Group
    from app.domain.groups.member import JoinRequest
    from app.domain.queues.in_flight import InFlightRecord
    from app.storage.db.transaction import Tx
    from tests.history.planted.cluster import Cluster

EARLY_MS = 3_600_000


def _nothing(*_: object, **__: object) -> None:
    return


def _no_stale_partitions(*_: object) -> list[Any]:
    return []


def _held_partitions_are_free(_: object, found: Group) -> Group:
    assigned = {
        name: replace(member, assigned=dict.fromkeys(member.target, member.member_epoch), revoking={})
        for name, member in found.members.items()
    }
    return replace(found, members=assigned)


def _assign_held_partitions(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    for module in (assignment, group):
        replacing(module, "assign_free_partitions", _held_partitions_are_free)(monkeypatch, cluster)


def _expire_early(original: Any, found: Group, request: JoinRequest, now_ms: int, most: int) -> Group:
    """Remove the members at a join whose session ends within the next hour."""
    early = {name: replace(member, deadline_ms=member.deadline_ms - EARLY_MS) for name, member in found.members.items()}
    joined: Group = original(group.expire_members(replace(found, members=early), now_ms), request, now_ms, most)
    return joined


def _commit_one_more(original: Any, tx: Tx, group_id: int, commits: Collection[Any], at_ms: int) -> None:
    original(tx, group_id, [one._replace(offset=one.offset + 1) for one in commits], at_ms)


def _commit_what_is_returned(original: Any, tx: Tx, *args: Any) -> Any:
    """Commit the page of a poll in the transaction that saves it, not in the next poll."""
    saved = original(tx, *args)
    group_id, ranges = (
        (args[0].group_id, args[2]) if isinstance(args[0], members.MemberSnapshot) else (args[0], args[2].ranges)
    )
    commits = [groups.offsets.Commit("", topic, number, 0, end) for (topic, number), (_, end) in ranges.items()]
    if commits:
        groups.offsets.commit(tx, group_id, commits, clock.read(tx))
    return saved


def _auto_commit_at_once(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    for name in ("save_last_poll", "store_last_poll"):
        replacing(members, name, _commit_what_is_returned)(monkeypatch, cluster)


async def _two_transactions(original: Any, self: Transactions, request: TransactionRequest) -> TransactionResult:
    """Append in one transaction, and commit the offsets in the next one."""
    produced: TransactionResult = await original(self, request._replace(commit=[]))
    await original(self, request._replace(produce=[], key=None))
    return produced


def _outputs_elsewhere(original: Any, tx: Tx, *args: Any) -> Any:
    """Answer the offsets of rows that belong to a transaction which does not happen."""
    outcomes = original(tx, *args)
    tx.deferred = [one for one in tx.deferred if "INTO records" not in one.sql]
    return outcomes


def _any_delivery(original: Any, entry: InFlightRecord | None, _: int, *args: Any) -> Any:
    count = 0 if entry is None else entry.delivery_count
    return original(entry, count, *args)


def _locked_is_available(original: Any, entry: InFlightRecord, *args: Any) -> bool:
    return entry.state == RecordState.ACQUIRED or original(entry, *args)


def _accept_is_release(original: Any, entry: Any, count: int, acknowledge_type: AcknowledgeType, *args: Any) -> Any:
    settled = original(entry, count, acknowledge_type, *args)
    return replace(entry, state=RecordState.AVAILABLE, until_ms=0) if settled is None else settled


def _without_first_record(original: Any, self: SharePartitionState, summaries: Any, *args: Any) -> Any:
    return original(self, list(summaries)[1:], *args)


def _same_delivery(original: Any, entry: InFlightRecord, until_ms: int) -> InFlightRecord:
    acquired: InFlightRecord = original(entry, until_ms)
    return replace(acquired, delivery_count=max(1, entry.delivery_count))


def _count_of_deliveries(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    for module in (share_partition, share_partition_state):
        replacing(module, "acquire", _same_delivery)(monkeypatch, cluster)


def _no_order(monkeypatch: pytest.MonkeyPatch, _: Cluster) -> None:
    rules = queue.QueueConfig.rules.fget  # type: ignore[attr-defined] # a property
    monkeypatch.setattr(queue.QueueConfig, "rules", property(lambda self: rules(self)._replace(by_key=False)))


_MEMBERS = group_scenarios.members
_TRANSACTIONS = group_scenarios.transactions
_QUEUE = group_scenarios.queue

GROUP_FAULTS = [
    Fault(
        "the epoch of a member is not compared in a poll", replacing(group, "check_epoch", _nothing), _MEMBERS, "zombie"
    ),
    Fault(
        "the epoch of a member is not compared in a commit",
        replacing(offsets, "check_commit", _no_stale_partitions),
        _MEMBERS,
        "zombie",
    ),
    Fault(
        "a partition is assigned before its holder has given it up",
        _assign_held_partitions,
        group_scenarios.silent_member,
        "two owners",
    ),
    Fault(
        "sessions end too early",
        replacing(group_transactions, "join_group", _expire_early),
        group_scenarios.silent_member,
        "two owners",
    ),
    Fault(
        "a commit of offsets is not stored",
        replacing(groups.offsets, "commit", _nothing),
        _MEMBERS,
        "nonmonotonic poll",
    ),
    Fault(
        "a commit of offsets is one too high",
        replacing(groups.offsets, "commit", _commit_one_more),
        _MEMBERS,
        "poll skip",
    ),
    Fault(
        "auto_commit commits the page that it returns",
        _auto_commit_at_once,
        group_scenarios.automatic_commits,
        "poll skip",
    ),
    Fault(
        "from_offset is not compared", replacing(offsets, "_check_offset", _nothing), _TRANSACTIONS, "processed twice"
    ),
    Fault(
        "a transaction is two transactions",
        replacing(Transactions, "run", _two_transactions),
        _TRANSACTIONS,
        "aborted read",
    ),
    Fault(
        "the records of a transaction are not in it",
        replacing(transactions, "append_all", _outputs_elsewhere),
        _TRANSACTIONS,
        "unseen",
    ),
    Fault(
        "the offsets of a transaction are not in it",
        replacing(transactions, "commit_offsets", _nothing),
        _TRANSACTIONS,
        "torn transaction",
    ),
    Fault(
        "an ended delivery can be acknowledged",
        replacing(share_partition, "settle", _any_delivery),
        _QUEUE,
        "late acknowledgement",
    ),
    Fault("a lock is ignored", replacing(in_flight, "is_available", _locked_is_available), _QUEUE, "two holders"),
    Fault(
        "an accept is not stored",
        replacing(share_partition, "settle", _accept_is_release),
        _QUEUE,
        "delivered after the accept",
    ),
    Fault(
        "a queue passes over a record",
        replacing(SharePartitionState, "admit", _without_first_record),
        _QUEUE,
        "undelivered",
    ),
    Fault("a delivery is not counted", _count_of_deliveries, _QUEUE, "delivered twice"),
    Fault("the order of a key is ignored", _no_order, group_scenarios.queue_by_key, "delivered out of order"),
]
