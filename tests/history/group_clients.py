"""Members of groups and workers of queues whose operations are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.history.events import (
    Acknowledge,
    Acquire,
    Claim,
    Commit,
    Committed,
    Delivery,
    Poll,
    Range,
    Release,
    Send,
    Settled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.history.recorder import Call, Recorder, Result

NS_PER_MS = 1_000_000
SMALL_BYTES = 65_536
"""Bytes of an acquire that the server answers without its pauses between large ones: `faketime` breaks these."""


class Member:
    """A member that polls, and commits what it has polled.

    Attributes:
        next_offsets: What the last poll returned, to be committed.
    """

    def __init__(
        self,
        recorder: Recorder,
        call: Call,
        process: str,
        topic: str,
        *,
        group: str = "billing",
        member_id: str = "",
        session_ms: int = 45_000,
    ) -> None:
        self.recorder = recorder
        self.call = call
        self.process = process
        self.topic = topic
        self.group = group
        self.member_id = member_id or process
        self.session_ms = session_ms
        self.epoch = -1
        self.next_offsets: list[dict[str, Any]] = []
        self._polls = 0

    @property
    def path(self) -> str:
        return f"/v1/groups/{self.group}/members"

    async def join(self) -> Result:
        """Join, or join again."""
        request = {"topics": [self.topic], "member_id": self.member_id, "session_timeout_ms": self.session_ms}
        result = await self.recorder.run(self.call, "POST", self.path, request)
        self.note_claim(result, joined=True)
        return result

    async def poll(self, max_records: int = 100, wait_ms: int = 0, *, call: Call | None = None, **body: Any) -> Result:
        """Poll without a commit. With `auto_commit` and `topics` in the body, the poll joins and commits."""
        request = {"max_records": max_records, "max_wait_ms": wait_ms, **body}
        joins = "topics" in request
        if joins:
            request["session_timeout_ms"] = self.session_ms
        else:
            request["member_epoch"] = self.epoch
        result = await self.recorder.run(call or self.call, "POST", f"{self.path}/{self.member_id}/poll", request)
        self.note_claim(result, joined=joins)
        if result.outcome == "ok":
            self.next_offsets = result.document["next_offsets"]
            self._note_pages(result)
        return result

    def note_claim(self, result: Result, *, joined: bool = False) -> None:
        """Record what an answer assigns."""
        document = result.document
        if result.outcome == "ok":
            self.epoch = document["member_epoch"]
        self.recorder.add(
            Claim(
                process=self.process,
                group=self.group,
                partitions=[
                    f"{one['topic']}/{partition}"
                    for one in document.get("assignment", ())
                    for partition in one["partitions"]
                ],
                until=result.began + self.session_ms * NS_PER_MS * 2 // 3,
                joined=joined,
                **result.times,
            )
        )

    def _note_pages(self, result: Result) -> None:
        """Record one poll per partition that the answer has records of."""
        self._polls += 1
        for one in result.document["next_offsets"]:
            partition = f"{one['topic']}/{one['partition']}"
            records = [
                (record["offset"], str(record["value"]))
                for record in result.document["records"]
                if (record["topic"], record["partition"]) == (one["topic"], one["partition"])
            ]
            self.recorder.add(
                Poll(
                    process=self.process,
                    session=f"{self.process}.{self._polls}",
                    partition=partition,
                    from_offset=one["from_offset"],
                    next_offset=one["offset"],
                    records=records,
                    group=self.group,
                    **result.times,
                )
            )

    def ranges(self) -> list[Range]:
        """Return what is to be committed."""
        return [
            Range(self.group, f"{one['topic']}/{one['partition']}", one["from_offset"], one["offset"])
            for one in self.next_offsets
        ]

    async def commit(self) -> Result:
        """Commit what the last poll returned."""
        ranges = self.ranges()
        request = {"member_id": self.member_id, "member_epoch": self.epoch, "offsets": self.next_offsets}
        result = await self.recorder.run(self.call, "POST", f"/v1/groups/{self.group}/offsets", request)
        self.recorder.add(Commit(process=self.process, commits=ranges, **result.times))
        return result

    async def transact(
        self, topic: str, values: Sequence[str], *, call: Call | None = None, key: str | None = None, partition: int = 0
    ) -> Result:
        """Append values and commit what the last poll returned, in one transaction."""
        records = [{"value": value, "partition": partition} for value in values]
        member = {"group": self.group, "member_id": self.member_id, "member_epoch": self.epoch}
        request = {
            "produce": [{"topic": topic, "records": records}],
            "commit": [member | {"offsets": self.next_offsets}],
        }
        headers = {} if key is None else {"Idempotency_Key": key}
        result = await self.recorder.run(call or self.call, "POST", "/v1/transactions", request, **headers)
        produced = result.document["produced"][0]["offsets"] if result.outcome == "ok" else []
        self.recorder.add(
            Send(
                process=self.process,
                request=values[0],
                values=list(values),
                partitions=[f"{topic}/{partition}"] * len(values),
                offsets=[one["offset"] for one in produced],
                commits=self.ranges(),
                **result.times,
            )
        )
        return result

    def released(self) -> None:
        """Record that the process was killed, or that another one has its member id."""
        now = self.recorder.now()
        self.recorder.add(Release(process=self.process, group=self.group, began=now, ended=now))


async def final_offsets(recorder: Recorder, call: Call, group: str) -> None:
    """Record the committed offsets of a group, as the last reading of the history."""
    result = await recorder.run(call, "GET", f"/v1/groups/{group}/offsets")
    for one in result.document["offsets"]:
        if one["committed_offset"] is not None:
            partition = f"{one['topic']}/{one['partition']}"
            offset = one["committed_offset"]
            recorder.add(Committed(process="final", group=group, partition=partition, offset=offset, **result.times))


class Worker:
    """Acquires records of a queue, and acknowledges them."""

    def __init__(self, recorder: Recorder, call: Call, process: str, queue: str, topic: str, lock_ms: int) -> None:
        self.recorder = recorder
        self.call = call
        self.process = process
        self.queue = queue
        self.topic = topic
        self.lock_ms = lock_ms
        self.ordering = ""

    async def acquire(self, max_records: int = 10, wait_ms: int = 0, *, drains: bool = False) -> list[dict[str, Any]]:
        """Acquire records. `drains` says that an empty answer means that no record is left."""
        request = {"max_records": max_records, "max_bytes": SMALL_BYTES, "max_wait_ms": wait_ms}
        result = await self.recorder.run(self.call, "POST", f"/v1/queues/{self.queue}/acquire", request)
        found: list[dict[str, Any]] = result.document.get("deliveries", [])
        self.recorder.add(
            Acquire(
                process=self.process,
                queue=self.queue,
                deliveries=[self._delivery(one) for one in found],
                drained=drains and not found,
                ordering=self.ordering,
                **result.times,
            )
        )
        return found

    def _delivery(self, one: dict[str, Any]) -> Delivery:
        record, until_ms = one["record"], one["locked_until_ms"]
        return Delivery(
            f"{self.topic}/{record['partition']}",
            record["offset"],
            one["delivery_count"],
            until_ms - self.lock_ms,
            until_ms,
            record["key"] or "",
        )

    async def acknowledge(
        self, deliveries: Sequence[dict[str, Any]], outcomes: Sequence[str] | None = None
    ) -> list[str | None]:
        """Acknowledge deliveries, by default all with `accept`, and return the code of each refusal.

        The outcome is unknown if the worker is killed, that is, cancelled, meanwhile.
        """
        outcomes = outcomes or ["accept"] * len(deliveries)
        request = {
            "acknowledgements": [
                {"delivery_id": one["delivery_id"], "outcome": outcome}
                for one, outcome in zip(deliveries, outcomes, strict=True)
            ]
        }
        began = self.recorder.now()
        times: dict[str, Any] = {}
        codes: list[str | None] = []
        try:
            result = await self.recorder.run(self.call, "POST", f"/v1/queues/{self.queue}/acknowledge", request)
            times, codes = result.times, [one["code"] for one in result.document.get("results", ())]
        finally:
            settled = zip(deliveries, outcomes, codes or [None] * len(deliveries), strict=True)
            self.recorder.add(
                Acknowledge(
                    process=self.process,
                    queue=self.queue,
                    results=[
                        Settled(*self._place(one), one["delivery_count"], outcome, code or "")
                        for one, outcome, code in settled
                    ],
                    **times or {"began": began, "ended": self.recorder.now(), "outcome": "info"},
                )
            )
        return codes

    def _place(self, one: dict[str, Any]) -> tuple[str, int]:
        return f"{self.topic}/{one['record']['partition']}", one["record"]["offset"]
