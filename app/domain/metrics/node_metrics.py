"""The counts of one node, from its start on. Used on the event loop only."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field

from app.domain.metrics.histogram import Histogram

REQUEST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG_POLL_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STREAM_S = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
COMMIT_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)
MOST_TOPICS = 200
"""Topics that are counted by name; the others together."""
OTHER_TOPICS = "other"


class OperationCounts:
    """The answers of one operation.

    Attributes:
        answers: Number of answers by status.
        durations: Of the requests that do not wait, in seconds.
        long_polls: Of the requests that may wait for records.
        streams: Of the streams, until they ended.
        received_bytes: Of the bodies of requests, as they were sent.
        sent_bytes: Of the bodies of answers.
    """

    __slots__ = ("answers", "durations", "long_polls", "received_bytes", "sent_bytes", "streams")

    def __init__(self) -> None:
        self.answers: defaultdict[int, int] = defaultdict(int)
        self.durations = Histogram(REQUEST_S)
        self.long_polls = Histogram(LONG_POLL_S)
        self.streams = Histogram(STREAM_S)
        self.received_bytes = 0
        self.sent_bytes = 0

    def add(self, status: int, seconds: float, received_bytes: int, sent_bytes: int, histogram: Histogram) -> None:
        """Count an answer that is no stream. It is called once a request: what it calls would cost as much again.

        Args:
            status: Its status.
            seconds: From the head of the request to the answer.
            received_bytes: Of the body of the request.
            sent_bytes: Of the body of the answer.
            histogram: That of these requests: `durations` or `long_polls`.
        """
        self.answers[status] += 1
        histogram.counts[bisect_left(histogram.bounds, seconds)] += 1
        histogram.sum += seconds
        self.received_bytes += received_bytes
        self.sent_bytes += sent_bytes

    def begin_stream(self, status: int, received_bytes: int) -> None:
        """Count the answer of a stream, which begins."""
        self.answers[status] += 1
        self.received_bytes += received_bytes


class OperationTable(dict[str, OperationCounts]):
    """The counts of each operation by its name."""

    def __missing__(self, operation: str) -> OperationCounts:
        counts = self[operation] = OperationCounts()
        return counts


class TopicTable(dict[str, list[int]]):
    """Records and bytes that clients appended, by topic. Only the first `most` topics have their own."""

    def __init__(self, most: int = MOST_TOPICS) -> None:
        super().__init__()
        self._most = most

    def __missing__(self, topic: str) -> list[int]:
        return self.setdefault(topic if len(self) < self._most else OTHER_TOPICS, [0, 0])

    def add(self, topic: str, records: int, size_bytes: int) -> None:
        """Count the records of a request."""
        counts = self[topic]
        counts[0] += records
        counts[1] += size_bytes


class CommitCounts:
    """Group commits: how long each took, and how many requests shared it."""

    def __init__(self) -> None:
        self.durations = Histogram(COMMIT_S)
        self.requests = Histogram(COMMIT_REQUESTS)

    def add(self, seconds: float, requests: int) -> None:
        """Count a transaction."""
        self.durations.observe(seconds)
        self.requests.observe(requests)


@dataclass(slots=True)
class TaskCounts:
    """The runs of a background task.

    Attributes:
        runs: Steps that succeeded.
        failures: Steps that failed.
        seconds: Time that steps took.
    """

    runs: int = 0
    failures: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class RetentionCounts:
    """The work of retention and compaction.

    Attributes:
        raised_starts: How often the start of a partition's log was raised by its policy.
        deleted_records: Records that were deleted because the log has them no more.
        compacted_records: Records that compaction deleted.
    """

    raised_starts: int = 0
    deleted_records: int = 0
    compacted_records: int = 0


@dataclass(slots=True)
class DoorCounts:
    """Connections, and requests that no operation answered.

    Attributes:
        connections: Open connections.
        accepted: Connections since the start.
        refusals: Number of refused requests by the code of the problem.
    """

    connections: int = 0
    accepted: int = 0
    refusals: dict[str, int] = field(default_factory=dict)

    def refuse(self, code: str) -> None:
        """Count a refused request."""
        self.refusals[code] = self.refusals.get(code, 0) + 1


class NodeMetrics:
    """All counts of a node.

    Args:
        enabled: Whether requests, topics and group commits are counted.

    Attributes:
        operations: The answers by operation; None if they are not counted.
        topics: What clients appended; None if it is not counted.
        appends, deliveries: The group commits; None if they are not counted.
        retention: What retention and compaction did.
        door: Connections, and requests that no operation answered.
        tasks: The background tasks by name.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.operations = OperationTable() if enabled else None
        self.topics = TopicTable() if enabled else None
        self.appends = CommitCounts() if enabled else None
        self.deliveries = CommitCounts() if enabled else None
        self.retention = RetentionCounts()
        self.door = DoorCounts()
        self.tasks: dict[str, TaskCounts] = {}
