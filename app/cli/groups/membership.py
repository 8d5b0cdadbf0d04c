"""The membership of a consumer group: the member's requests, its epoch and its assignment."""

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

_MIN_REQUEST_TIMEOUT_S = 1.0
_MAX_REQUEST_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class JoinOptions:
    """Fields of a join request; None is left out."""

    member_id: str
    topics: list[str]
    topic_pattern: str | None
    client_id: str
    instance_id: str | None
    auto_offset_reset: str
    session_timeout_ms: int


class OffsetRange(NamedTuple):
    """The committed offset of a partition, and the offset to commit next."""

    from_offset: int
    offset: int


class TopicPartitions(msgspec.Struct):
    """Partitions of one topic."""

    topic: str
    partitions: list[int]


class AssignmentAnswer(msgspec.Struct):
    """What every answer to a member contains."""

    member_epoch: int
    assignment: list[TopicPartitions]
    heartbeat_interval_ms: int


class NextOffset(msgspec.Struct):
    """The committed offset of a partition, and the offset to commit after a page."""

    topic: str
    partition: int
    from_offset: int
    offset: int


class Skipped(msgspec.Struct):
    """Offsets that retention deleted before the group had read them; `to_offset` is exclusive."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class Page(AssignmentAnswer):
    """The answer to a poll; each record is the JSON that the server sent."""

    records: list[msgspec.Raw]
    next_offsets: list[NextOffset]
    skipped: list[Skipped] = []


_answer_decoder = msgspec.json.Decoder(AssignmentAnswer)
_page_decoder = msgspec.json.Decoder(Page)


class Membership:
    """Sends the requests of one member, one at a time.

    Every answer may change the member epoch and the assignment. A thread therefore holds `lock` during a request and
    all that it derives from the answer.

    Args:
        client: HTTP client.
        group: Name of the group.
        options: Fields of the join request.
        on_rebalance: Called with the partitions assigned and revoked.

    Attributes:
        lock: Serializes the requests of several threads.
        assignment: The partitions in the last answer.
        heartbeat_interval_s: The interval in the last answer.
        last_heartbeat_s: Monotonic time of the last answer to a join, heartbeat or poll.
    """

    def __init__(
        self,
        client: Client,
        group: str,
        options: JoinOptions,
        on_rebalance: Callable[[Collection[Partition], Collection[Partition]], None],
    ) -> None:
        self._client = client
        self._group_path = group_path(group)
        self._member_path = f"{self._group_path}/members/{quote(options.member_id, safe='')}"
        self._options = options
        self._on_rebalance = on_rebalance
        self._request_timeout_s = min(
            max(_MIN_REQUEST_TIMEOUT_S, options.session_timeout_ms / 3_000), _MAX_REQUEST_TIMEOUT_S
        )
        self._epoch: int | None = None
        self.lock = threading.RLock()
        self.assignment: frozenset[Partition] = frozenset()
        self.heartbeat_interval_s = options.session_timeout_ms / 6_000
        self.last_heartbeat_s = 0.0

    @property
    def is_static(self) -> bool:
        """Whether the member has an instance id, and keeps its partitions until its session ends."""
        return self._options.instance_id is not None

    def join(self) -> None:
        """Join or rejoin; the earlier assignment is void."""
        document = {name: value for name, value in vars(self._options).items() if value is not None}
        content = self._send(f"{self._group_path}/members", document)
        self.assignment = frozenset()
        self._update(_answer_decoder.decode(content))

    def request_rejoin(self) -> None:
        """Rejoin before the next heartbeat or poll: the server has removed the member."""
        self._epoch = None

    def request_heartbeat(self) -> None:
        """Make the next heartbeat due now."""
        self.last_heartbeat_s = 0.0

    def limit_request_timeout(self, timeout_s: float) -> None:
        """Lower the timeout of all further requests."""
        self._request_timeout_s = min(self._request_timeout_s, timeout_s)

    def heartbeat(self, owned: Iterable[Partition]) -> None:
        """Send a heartbeat with the partitions that the member still owns."""
        document = {"member_epoch": self._joined_epoch(), "owned": by_topic(owned)}
        self._update(_answer_decoder.decode(self._send(f"{self._member_path}/heartbeat", document)))

    def poll(self, offsets: Mapping[Partition, OffsetRange], max_records: int, max_wait_ms: int) -> Page:
        """Commit offsets and fetch the next page.

        A poll also is a heartbeat that owns exactly the assignment: no record of an earlier page is being processed.
        """
        document = {
            "member_epoch": self._joined_epoch(),
            "commit": _commit_entries(offsets),
            "max_records": max_records,
            "max_wait_ms": max_wait_ms,
        }
        wait_s = min(max_wait_ms / 1000, self.heartbeat_interval_s)
        page = _page_decoder.decode(self._send(f"{self._member_path}/poll", document, wait_s))
        self._update(page)
        return page

    def commit(self, offsets: Mapping[Partition, OffsetRange]) -> None:
        """Commit offsets."""
        document = {
            "member_id": self._options.member_id,
            "member_epoch": self._epoch,
            "offsets": _commit_entries(offsets),
        }
        self._send(f"{self._group_path}/offsets", document)

    def leave(self) -> None:
        """Leave the group, which reassigns the partitions at once."""
        self._client.send("DELETE", self._member_path, timeout_s=self._request_timeout_s)

    def _joined_epoch(self) -> int:
        """Return the member epoch; join first if necessary."""
        if self._epoch is None:
            self.join()
        assert self._epoch is not None  # noqa: S101 - for the type checker
        return self._epoch

    def _send(self, path: str, document: object, wait_s: float = 0.0) -> bytes:
        """Send a request, with a timeout that leaves time for a second attempt within the session."""
        body = msgspec.json.encode(document)
        return self._client.send("POST", path, body=body, timeout_s=wait_s + self._request_timeout_s).content

    def _update(self, answer: AssignmentAnswer) -> None:
        previous = self.assignment
        self._epoch = answer.member_epoch
        self.assignment = frozenset((entry.topic, number) for entry in answer.assignment for number in entry.partitions)
        self.heartbeat_interval_s = answer.heartbeat_interval_ms / 1000
        self.last_heartbeat_s = time.monotonic()
        if previous != self.assignment:
            self._on_rebalance(self.assignment - previous, previous - self.assignment)


def _commit_entries(offsets: Mapping[Partition, OffsetRange]) -> list[dict[str, object]]:
    return [
        {"topic": topic, "partition": number, "from_offset": from_offset, "offset": offset}
        for (topic, number), (from_offset, offset) in offsets.items()
    ]
