"""The page in progress: unwritten lines, owned partitions and uncommitted offsets."""

from __future__ import annotations

from app.cli.groups.membership import NextOffset, OffsetRange
from app.cli.terminal.stdout_writer import ATOMIC_WRITE_BYTES
from tests.cli.groups.pages import ONE, TWO, in_progress, page


def test_offsets_are_uncommitted_once_their_lines_are_written() -> None:
    progress = in_progress(page((1, 5), (2, 0), (1, 6)))
    assert progress.take_lines().count(b"\n") == 3
    assert progress.uncommitted() == {}
    progress.mark_written()
    assert progress.uncommitted() == {ONE: OffsetRange(5, 7), TWO: OffsetRange(0, 1)}
    assert (progress.records, progress.has_unwritten, progress.take_lines()) == (3, False, b"")


def test_take_lines_returns_what_one_atomic_write_takes_or_one_longer_line() -> None:
    progress = in_progress(page(*((1, offset) for offset in range(10)), padding=ATOMIC_WRITE_BYTES // 3))
    assert [progress.take_lines().count(b"\n") for _ in range(1)] == [2]
    progress = in_progress(page((1, 0), (1, 1), padding=2 * ATOMIC_WRITE_BYTES))
    assert progress.take_lines().count(b"\n") == 1


def test_lines_of_a_revoked_partition_are_dropped_and_it_is_owned_while_a_line_is_being_written() -> None:
    progress = in_progress(page((1, 0), (2, 0), (1, 1), (2, 1), padding=ATOMIC_WRITE_BYTES))
    progress.take_lines()
    assert progress.update_assignment({TWO}) is True
    assert progress.owned() == {ONE, TWO}
    progress.mark_written()
    assert progress.owned() == {TWO}
    assert progress.uncommitted() == {ONE: OffsetRange(0, 1)}
    assert b'"offset":0' in progress.take_lines()
    progress.mark_written()
    progress.take_lines()
    progress.mark_written()
    assert progress.uncommitted() == {ONE: OffsetRange(0, 1), TWO: OffsetRange(0, 2)}
    assert progress.records == 3
    assert progress.update_assignment({TWO}) is False


def test_the_lines_of_a_revoked_partition_stay_dropped_when_it_is_assigned_again() -> None:
    progress = in_progress(page((1, 0), (2, 0)))
    progress.update_assignment({TWO})
    progress.update_assignment({ONE, TWO})
    assert progress.take_lines().count(b"\n") == 1


def test_committed_offsets_are_not_uncommitted_again() -> None:
    progress = in_progress(page((1, 0), (1, 1), padding=ATOMIC_WRITE_BYTES))
    progress.take_lines()
    progress.mark_written()
    sent = progress.uncommitted()
    progress.take_lines()
    progress.mark_written()
    progress.mark_committed(sent)
    assert progress.uncommitted() == {ONE: OffsetRange(1, 2)}
    progress.mark_committed(progress.uncommitted())
    assert progress.uncommitted() == {}


def test_the_next_offset_of_a_partition_without_records_is_uncommitted() -> None:
    progress = in_progress(page((1, 0), skipped=(NextOffset("t", 2, 3, 8),)))
    assert progress.uncommitted() == {TWO: OffsetRange(3, 8)}
