"""The group consumer: commits, heartbeats and errors of the server."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from app.cli.client import ServerRefused
from app.cli.groups.group_consumer import GroupConsumer
from app.cli.groups.membership import OffsetRange
from app.cli.terminal.shutdown_signals import ShutdownSignals
from app.cli.terminal.stdout_writer import StdoutWriter
from tests.cli.groups.pages import BOTH, ONE, TWO, in_progress, page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.cli.groups.partitions import Partition


class FakeMembership:
    """A membership whose server returns the errors in turn, and records commits and heartbeats."""

    def __init__(self, *errors: dict[str, Any]) -> None:
        self.lock = threading.RLock()
        self.assignment = BOTH
        self.heartbeat_interval_s = 0.01
        self.last_heartbeat_s = 0.0
        self.is_static = False
        self.errors = list(errors)
        self.committed: list[dict[Partition, OffsetRange]] = []
        self.heartbeats: list[set[Partition]] = []
        self.left = False

    def commit(self, offsets: Mapping[Partition, OffsetRange]) -> None:
        if self.errors:
            problem = self.errors.pop(0)
            raise ServerRefused(409, problem, problem["code"])
        self.committed.append(dict(offsets))

    def heartbeat(self, owned: Iterable[Partition]) -> None:
        self.heartbeats.append(set(owned))

    def limit_request_timeout(self, timeout_s: float) -> None:
        pass

    def request_rejoin(self) -> None:
        pass

    def leave(self) -> None:
        self.left = True


@pytest.fixture
def shutdown() -> Iterator[ShutdownSignals]:
    with ShutdownSignals() as found:
        yield found


def consumer_with_written_page(shutdown: ShutdownSignals, member: FakeMembership) -> GroupConsumer:
    """Return a consumer that has written two records of each of two partitions."""
    progress = in_progress(page((1, 0), (1, 1), (2, 0), (2, 1)))
    progress.take_lines()
    progress.mark_written()
    stdout = StdoutWriter(os.open(os.devnull, os.O_WRONLY), shutdown)
    return GroupConsumer(member, progress, stdout, shutdown, 1.0)  # type: ignore[arg-type] # a fake


@pytest.mark.parametrize(
    ("error", "committed"),
    [
        (  # the first part is committed, and the answer was lost
            {"code": "OFFSET_CONFLICT", "committed_offset": 1, "errors": [{"index": 0}]},
            [{ONE: OffsetRange(1, 2), TWO: OffsetRange(0, 2)}],
        ),
        (
            {"code": "OFFSET_CONFLICT", "committed_offset": 2, "errors": [{"index": 1}]},
            [{ONE: OffsetRange(0, 2)}],
        ),
        (  # another client has set it
            {"code": "OFFSET_CONFLICT", "committed_offset": None, "errors": [{"index": 0}]},
            [{TWO: OffsetRange(0, 2)}],
        ),
        ({"code": "UNKNOWN_TOPIC_OR_PARTITION", "errors": [{"index": 0}]}, [{TWO: OffsetRange(0, 2)}]),
        ({"code": "STALE_MEMBER_EPOCH"}, [{ONE: OffsetRange(0, 2), TWO: OffsetRange(0, 2)}]),
        ({"code": "SERVICE_UNAVAILABLE", "retriable": True}, [{ONE: OffsetRange(0, 2), TWO: OffsetRange(0, 2)}]),
        ({"code": "UNKNOWN_MEMBER_ID"}, []),
    ],
)
def test_a_refused_offset_is_left_out_and_the_others_are_committed(
    shutdown: ShutdownSignals, error: dict[str, Any], committed: list[dict[Partition, OffsetRange]]
) -> None:
    member = FakeMembership(error)
    consumer_with_written_page(shutdown, member).leave()
    assert member.committed == committed
    assert member.left


def test_a_stale_member_commits_the_partitions_that_it_still_owns(shutdown: ShutdownSignals) -> None:
    member = FakeMembership({"code": "STALE_MEMBER_EPOCH"})
    member.assignment = frozenset({TWO})
    consumer_with_written_page(shutdown, member).leave()
    assert member.committed == [{TWO: OffsetRange(0, 2)}]


def test_a_heartbeat_commits_first_and_gives_up_revoked_partitions_at_once(shutdown: ShutdownSignals) -> None:
    member = FakeMembership()
    member.assignment = frozenset({TWO})
    consumer_with_written_page(shutdown, member).heartbeat()
    assert member.committed == [{ONE: OffsetRange(0, 2), TWO: OffsetRange(0, 2)}]
    assert member.heartbeats == [{ONE, TWO}, {TWO}]
