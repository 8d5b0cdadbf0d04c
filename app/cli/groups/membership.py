"""A member of a consumer group: its requests, one at a time, and what it was told last."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import msgspec

from app.cli.groups.partitions import Partition, by_topic, group_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from app.cli.client import Client

_LEAST_SPARE_S = 1.0
_MOST_SPARE_S = 30.0


@dataclass(frozen=True)
class JoinOptions:
    """What a member joins with."""

    member_id: str
    topics: list[str]
    topic_pattern: str | None
    client_id: str
    instance_id: str | None
    auto_offset_reset: str
    session_timeout_ms: int


class OffsetRange(NamedTuple):
    """Where a group stands in a partition, and where it will."""

    from_offset: int
    offset: int


class TopicPartitions(msgspec.Struct):
    """Some partitions of a topic."""

    topic: str
    partitions: list[int]


class AssignmentAnswer(msgspec.Struct):
    """How a member stands."""

    member_epoch: int
    assignment: list[TopicPartitions]
    heartbeat_interval_ms: int


class NextOffset(msgspec.Struct):
    """Where a group stands in a partition, and where once a page is committed."""

    topic: str
    partition: int
    from_offset: int
    offset: int


class Skipped(msgspec.Struct):
    """Offsets that retention removed before the group had read them."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class Page(AssignmentAnswer):
    """The answer to a poll; each record is the JSON that the server gave."""

    records: list[msgspec.Raw]
    next_offsets: list[NextOffset]
    skipped: list[Skipped] = []


_standing = msgspec.json.Decoder(AssignmentAnswer)
_page = msgspec.json.Decoder(Page)


class Membership:
    """Joins, beats, polls, commits and leaves for one member.

    Hold `turn` for what belongs together: epochs move with the answers, so requests of two threads must not cross.

    Args:
        client: Of the server.
        group: Its name.
        wish: What to join with.
        on_change: Called with the partitions given and taken away.
    """

    def __init__(
        self,
        client: Client,
        group: str,
        wish: JoinOptions,
        on_change: Callable[[Collection[Partition], Collection[Partition]], None],
    ) -> None:
        self._client = client
        self._group = group_path(group)
        self._member = f"{self._group}/members/{quote(wish.member_id, safe='')}"
        self._wish = wish
        self._on_change = on_change
        self._spare_s = min(max(_LEAST_SPARE_S, wish.session_timeout_ms / 3_000), _MOST_SPARE_S)
        self._epoch: int | None = None
        self.turn = threading.RLock()
        self.assignment: frozenset[Partition] = frozenset()
        self.heartbeat_interval_s = wish.session_timeout_ms / 6_000
        self.answered_at_s = 0.0

    @property
    def is_static(self) -> bool:
        """Whether it keeps its place until the session ends, for whoever joins with its instance_id."""
        return self._wish.instance_id is not None

    def join(self) -> None:
        """Join, or join again: what was handed out before is nobody's business any more."""
        wish = {name: value for name, value in vars(self._wish).items() if value is not None}
        content = self._send(f"{self._group}/members", wish)
        self.assignment = frozenset()
        self._stand(_standing.decode(content))

    def drop(self) -> None:
        """Take note that it is no member any more; the next request joins."""
        self._epoch = None

    def hurry(self, spare_s: float) -> None:
        """Wait no longer than this for an answer."""
        self._spare_s = min(self._spare_s, spare_s)

    def beat(self, owned: Iterable[Partition]) -> None:
        """Say that it lives, and what it still works on."""
        document = {"member_epoch": self._joined(), "owned": by_topic(owned)}
        self._stand(_standing.decode(self._send(f"{self._member}/heartbeat", document)))

    def poll(self, spans: Mapping[Partition, OffsetRange], max_records: int, max_wait_ms: int) -> Page:
        """Commit and read; says by itself that nothing handed out before is in work."""
        document = {
            "member_epoch": self._joined(),
            "commit": _offsets(spans),
            "max_records": max_records,
            "max_wait_ms": max_wait_ms,
        }
        wait_s = min(max_wait_ms / 1000, self.heartbeat_interval_s)
        page = _page.decode(self._send(f"{self._member}/poll", document, wait_s))
        self._stand(page)
        return page

    def commit(self, spans: Mapping[Partition, OffsetRange]) -> None:
        """Commit without reading."""
        document = {"member_id": self._wish.member_id, "member_epoch": self._epoch, "offsets": _offsets(spans)}
        self._send(f"{self._group}/offsets", document)

    def leave(self) -> None:
        """Leave; its partitions are free at once."""
        self._client.send("DELETE", self._member, timeout_s=self._spare_s)

    def _joined(self) -> int:
        """Return the epoch, of a new join if need be."""
        if self._epoch is None:
            self.join()
        assert self._epoch is not None  # noqa: S101 - for the type checker
        return self._epoch

    def _send(self, path: str, document: object, wait_s: float = 0.0) -> bytes:
        """Send a request. It is given up early enough for a second one to keep the membership."""
        body = msgspec.json.encode(document)
        return self._client.send("POST", path, body=body, timeout_s=wait_s + self._spare_s).content

    def _stand(self, standing: AssignmentAnswer) -> None:
        before = self.assignment
        self._epoch = standing.member_epoch
        self.assignment = frozenset((one.topic, number) for one in standing.assignment for number in one.partitions)
        self.heartbeat_interval_s = standing.heartbeat_interval_ms / 1000
        self.answered_at_s = time.monotonic()
        if before != self.assignment:
            self._on_change(self.assignment - before, before - self.assignment)


def _offsets(spans: Mapping[Partition, OffsetRange]) -> list[dict[str, object]]:
    return [
        {"topic": topic, "partition": number, "from_offset": span.from_offset, "offset": span.offset}
        for (topic, number), span in spans.items()
    ]
