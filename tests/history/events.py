"""A history: what each client of a run sent, and what it was answered. One JSON object a line.

The outcome of an operation is `ok` (acknowledged), `fail` (refused: nothing was written) or `info` (unknown: the answer
was lost, or says so). A partition is named `topic/number`. Values are unique in a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Outcome = Literal["ok", "fail", "info"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """One operation of a process.

    Attributes:
        process: The client. It runs one operation after the other.
        began: When the request was sent, by the clock of the recorder, in nanoseconds.
        ended: When the answer was there, or the client gave up.
        code: Code of the problem, or why there was no answer.
    """

    process: str
    began: int
    ended: int
    outcome: Outcome = "ok"
    code: str = ""


class Range(msgspec.Struct, frozen=True, array_like=True):
    """A commit of a group that moves a partition from one offset to another; -1 if the first is not stated."""

    group: str
    partition: str
    from_offset: int
    offset: int


class Send(Event, frozen=True, kw_only=True, tag="send"):
    """One attempt to append the values of a request, and to commit offsets with them.

    Attributes:
        request: The name that all attempts of a request share.
        partitions: The partition of each value; empty if it is not known.
        offsets: The offset of each value, if acknowledged.
    """

    request: str
    values: list[str]
    partitions: list[str] = []
    offsets: list[int] = []
    commits: list[Range] = []


class Poll(Event, frozen=True, kw_only=True, tag="poll"):
    """One page of a partition.

    Attributes:
        session: The polls of a process in one session follow one another without gap or repeat. A seek and a
            new assignment begin another session.
        group: The group whose member polls, or empty.
        log_end_offset: Of the snapshot that was read; -1 if the answer does not have it.
        records: Offset and value of each record.
        final: Whether this poll belongs to the last reading of the partition, from the start to the end.
        unwoken: Whether the client gave up, after an acknowledged record should have ended the wait.
    """

    session: str
    partition: str
    from_offset: int
    next_offset: int = -1
    log_start_offset: int = 0
    log_end_offset: int = -1
    records: list[tuple[int, str]] = []
    group: str = ""
    final: bool = False
    unwoken: bool = False


class Trim(Event, frozen=True, kw_only=True, tag="trim"):
    """A deletion of the records before an offset, by a client or by retention; `log_start_offset` is the answer's."""

    partition: str
    before_offset: int
    log_start_offset: int = -1


class Claim(Event, frozen=True, kw_only=True, tag="claim"):
    """What the answer to a join, a poll or a heartbeat assigns to a member.

    Attributes:
        joined: Whether the request was a join, so that a fenced process is a member again.
        until: When the assignment ends without another answer.
    """

    group: str
    partitions: list[str]
    until: int
    joined: bool = False


class Release(Event, frozen=True, kw_only=True, tag="release"):
    """The process is no longer a member: it left, was killed, or another one has its member id or its producer id.

    The group of a producer is empty.
    """

    group: str


class Commit(Event, frozen=True, kw_only=True, tag="commit"):
    """A commit of offsets by a member."""

    commits: list[Range]


class Committed(Event, frozen=True, kw_only=True, tag="committed"):
    """The committed offset of a partition, as the last reading found it."""

    group: str
    partition: str
    offset: int


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """A record under a lock; the times are those of the server."""

    partition: str
    offset: int
    delivery_count: int
    from_ms: int
    until_ms: int
    key: str = ""


class Acquire(Event, frozen=True, kw_only=True, tag="acquire"):
    """Deliveries of a queue.

    Attributes:
        drained: Whether the queue says that no record is left.
        ordering: What the queue orders: `key`, `partition`, or nothing.
    """

    queue: str
    deliveries: list[Delivery] = []
    drained: bool = False
    ordering: str = ""


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """An acknowledgement of a delivery, and the code of its refusal or an empty string."""

    partition: str
    offset: int
    delivery_count: int
    outcome: str
    code: str = ""


class Acknowledge(Event, frozen=True, kw_only=True, tag="acknowledge"):
    """Acknowledgements of deliveries."""

    queue: str
    results: list[Settled]


AnyEvent = Send | Poll | Trim | Claim | Release | Commit | Committed | Acquire | Acknowledge

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


def save(path: Path, history: Iterable[AnyEvent]) -> None:
    """Write a history as JSON lines."""
    path.write_bytes(b"".join(_encoder.encode(event) + b"\n" for event in history))


def load(path: Path) -> list[AnyEvent]:
    """Read a history."""
    return [_decoder.decode(line) for line in path.read_bytes().splitlines()]
