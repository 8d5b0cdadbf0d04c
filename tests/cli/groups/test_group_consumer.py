"""What a member has in work, and how it takes refusals."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from app.cli.client import ServerRefused
from app.cli.groups.group_consumer import GroupConsumer
from app.cli.groups.membership import NextOffset, OffsetRange, Page, TopicPartitions
from app.cli.groups.page_in_progress import PageInProgress
from app.cli.groups.partitions import in_words
from app.cli.terminal.interruption import Interruption
from app.cli.terminal.stdout_writer import PIECE_BYTES, StdoutWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.cli.groups.partitions import Partition

ONE, TWO = ("t", 1), ("t", 2)
BOTH = frozenset({ONE, TWO})


def page(*records: tuple[int, int], padding: int = 0, passed: tuple[NextOffset, ...] = ()) -> Page:
    """A page of records, each by partition and offset; the group stands at the first of each partition."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for partition, offset in records:
        starts.setdefault(partition, offset)
        ends[partition] = offset + 1
    return Page(
        member_epoch=1,
        assignment=[TopicPartitions("t", [1, 2])],
        heartbeat_interval_ms=1_000,
        records=[
            msgspec.Raw(b'{"topic":"t","partition":%d,"offset":%d,"value":"%b"}' % (*record, b"x" * padding))
            for record in records
        ],
        next_offsets=[*passed, *(NextOffset("t", number, starts[number], ends[number]) for number in starts)],
    )


def work_of(found: Page) -> PageInProgress:
    work = PageInProgress(bytes)
    work.begin(found, BOTH)
    return work


def test_lines_are_written_when_all_of_a_piece_is_out() -> None:
    work = work_of(page((1, 5), (2, 0), (1, 6)))
    assert work.take().count(b"\n") == 3
    assert work.spans() == {}
    work.done()
    assert work.spans() == {ONE: OffsetRange(5, 7), TWO: OffsetRange(0, 1)}
    assert (work.records, work.waiting, work.take()) == (3, False, b"")


def test_a_piece_is_what_a_pipe_takes_at_once_or_one_longer_line() -> None:
    work = work_of(page(*((1, offset) for offset in range(10)), padding=PIECE_BYTES // 3))
    assert [work.take().count(b"\n") for _ in range(1)] == [2]
    work = work_of(page((1, 0), (1, 1), padding=2 * PIECE_BYTES))
    assert work.take().count(b"\n") == 1


def test_records_of_a_partition_that_was_taken_away_are_not_written_and_those_in_hand_are_owned() -> None:
    work = work_of(page((1, 0), (2, 0), (1, 1), (2, 1), padding=PIECE_BYTES))
    work.take()
    assert work.keep({TWO}) is True
    assert work.owned() == {ONE, TWO}
    work.done()
    assert work.owned() == {TWO}
    assert work.spans() == {ONE: OffsetRange(0, 1)}
    assert b'"offset":0' in work.take()
    work.done()
    work.take()
    work.done()
    assert work.spans() == {ONE: OffsetRange(0, 1), TWO: OffsetRange(0, 2)}
    assert work.records == 3
    assert work.keep({TWO}) is False


def test_a_partition_that_comes_back_is_read_anew() -> None:
    work = work_of(page((1, 0), (2, 0)))
    work.keep({TWO})
    work.keep({ONE, TWO})
    assert work.take().count(b"\n") == 1


def test_what_was_committed_meanwhile_is_not_committed_again() -> None:
    work = work_of(page((1, 0), (1, 1), padding=PIECE_BYTES))
    work.take()
    work.done()
    sent = work.spans()
    work.take()
    work.done()
    work.committed(sent)
    assert work.spans() == {ONE: OffsetRange(1, 2)}
    work.committed(work.spans())
    assert work.spans() == {}


def test_what_a_page_passes_over_is_committed_as_well() -> None:
    work = work_of(page((1, 0), passed=(NextOffset("t", 2, 3, 8),)))
    assert work.spans() == {TWO: OffsetRange(3, 8)}


class Member:
    """A membership whose server refuses what it is told to, and notes what is committed."""

    def __init__(self, *refusals: dict[str, Any]) -> None:
        self.turn = threading.RLock()
        self.assignment = BOTH
        self.heartbeat_interval_s = 0.01
        self.answered_at_s = 0.0
        self.is_static = False
        self.refusals = list(refusals)
        self.committed: list[dict[Partition, OffsetRange]] = []
        self.beats: list[set[Partition]] = []
        self.left = False

    def commit(self, spans: Mapping[Partition, OffsetRange]) -> None:
        if self.refusals:
            problem = self.refusals.pop(0)
            raise ServerRefused(409, problem, problem["code"])
        self.committed.append(dict(spans))

    def beat(self, owned: Iterable[Partition]) -> None:
        self.beats.append(set(owned))

    def hurry(self, spare_s: float) -> None:
        pass

    def drop(self) -> None:
        pass

    def leave(self) -> None:
        self.left = True


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    with Interruption() as found:
        yield found


def written(interruption: Interruption, member: Member) -> GroupConsumer:
    """A consumer that has written two records of each of two partitions."""
    work = work_of(page((1, 0), (1, 1), (2, 0), (2, 1)))
    work.take()
    work.done()
    sink = StdoutWriter(os.open(os.devnull, os.O_WRONLY), interruption)
    return GroupConsumer(member, work, sink, interruption, 1.0)  # type: ignore[arg-type] # a double


@pytest.mark.parametrize(
    ("refusal", "committed"),
    [
        (  # the first part was committed, and its answer lost
            {"code": "OFFSET_CONFLICT", "committed_offset": 1, "errors": [{"index": 0}]},
            [{ONE: OffsetRange(1, 2), TWO: OffsetRange(0, 2)}],
        ),
        (
            {"code": "OFFSET_CONFLICT", "committed_offset": 2, "errors": [{"index": 1}]},
            [{ONE: OffsetRange(0, 2)}],
        ),
        (  # somebody else has set it
            {"code": "OFFSET_CONFLICT", "committed_offset": None, "errors": [{"index": 0}]},
            [{TWO: OffsetRange(0, 2)}],
        ),
        ({"code": "UNKNOWN_TOPIC_OR_PARTITION", "errors": [{"index": 0}]}, [{TWO: OffsetRange(0, 2)}]),
        ({"code": "STALE_MEMBER_EPOCH"}, [{ONE: OffsetRange(0, 2), TWO: OffsetRange(0, 2)}]),
        ({"code": "SERVICE_UNAVAILABLE", "retriable": True}, [{ONE: OffsetRange(0, 2), TWO: OffsetRange(0, 2)}]),
        ({"code": "UNKNOWN_MEMBER_ID"}, []),
    ],
)
def test_what_is_refused_of_a_commit_is_left_out_and_the_rest_committed(
    interruption: Interruption, refusal: dict[str, Any], committed: list[dict[Partition, OffsetRange]]
) -> None:
    member = Member(refusal)
    written(interruption, member).leave()
    assert member.committed == committed
    assert member.left


def test_a_stale_member_commits_what_it_still_has(interruption: Interruption) -> None:
    member = Member({"code": "STALE_MEMBER_EPOCH"})
    member.assignment = frozenset({TWO})
    written(interruption, member).leave()
    assert member.committed == [{TWO: OffsetRange(0, 2)}]


def test_a_beat_commits_first_and_gives_up_at_once_what_was_taken_away(interruption: Interruption) -> None:
    member = Member()
    member.assignment = frozenset({TWO})
    written(interruption, member).beat()
    assert member.committed == [{ONE: OffsetRange(0, 2), TWO: OffsetRange(0, 2)}]
    assert member.beats == [{ONE, TWO}, {TWO}]


def test_partitions_in_words() -> None:
    assert in_words([]) == "nothing"
    assert in_words([{"topic": "a", "partitions": [3, 0, 1, 5]}, {"topic": "b", "partitions": [2]}]) == "a 0-1,3,5, b 2"
