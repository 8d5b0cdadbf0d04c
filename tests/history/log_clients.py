"""Producers and readers whose operations are recorded."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from tests.history.events import Poll, Send, Trim
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.history.recorder import Call, Recorder, Result

Kind = Literal["plain", "key", "sequence"]
RETRY_PAUSE_S = 0.02
REPEATED: dict[Kind, int] = {"plain": 0, "key": 100, "sequence": 5}
"""How many of its last requests a producer repeats at the end: all that the server has a result of."""


class Producer:
    """Sends requests under unique names.

    A `plain` producer sends each request once, `key` repeats it with its Idempotency-Key and `sequence` with its
    Producer-Sequence.
    """

    def __init__(
        self, recorder: Recorder, call: Call, process: str, topic: str, kind: Kind = "plain", producer_id: str = "p"
    ) -> None:
        self.recorder = recorder
        self.call = call
        self.process = process
        self.topic = topic
        self.kind = kind
        self.producer_id = producer_id
        self.acknowledged: deque[tuple[int, Sequence[str], Sequence[int]]] = deque(maxlen=REPEATED[kind])
        self.epoch = 0
        self.sequence = 0
        self.key: str | None = None
        self._number = 0

    def next_values(self, number: int = 1) -> list[str]:
        """Return values that no other request has."""
        self._number += 1
        return [f"{self.process}.{self._number}.{index}" for index in range(number)]

    async def attempt(
        self,
        values: Sequence[str],
        partitions: Sequence[int],
        *,
        call: Call | None = None,
        query: str = "",
        path: str = "",
    ) -> Result:
        """Send a request once; the same values are another attempt of the same request."""
        records: list[dict[str, Any]] = [{"value": value, "key": self.key} for value in values]
        if not path:
            for record, partition in zip(records, partitions, strict=True):
                record["partition"] = partition
        result = await self.recorder.run(
            call or self.call,
            "POST",
            (path or f"/v1/topics/{self.topic}/records") + query,
            {"records": records},
            **self._headers(values[0]),
        )
        offsets = [one["offset"] for one in result.document["offsets"]] if result.outcome == "ok" else []
        self.recorder.add(
            Send(
                process=self.process,
                request=values[0],
                values=list(values),
                partitions=[f"{self.topic}/{partition}" for partition in partitions],
                offsets=offsets,
                **result.times,
            )
        )
        if result.outcome == "ok" and values not in [known for _, known, _ in self.acknowledged]:
            self.acknowledged.append((self.sequence, values, partitions))
            self.sequence += 1
        return result

    def _headers(self, name: str) -> dict[str, str]:
        if self.kind == "key":
            return {"Idempotency_Key": name}
        if self.kind == "sequence":
            return {
                "Producer_Id": self.producer_id,
                "Producer_Epoch": str(self.epoch),
                "Producer_Sequence": str(self.sequence),
            }
        return {}

    async def send(self, values: Sequence[str], partitions: Sequence[int]) -> Result:
        """Send a request; repeat it until it is acknowledged, unless the producer is `plain`."""
        while True:
            result = await self.attempt(values, partitions)
            if result.outcome == "ok" or self.kind == "plain":
                return result
            await pause(RETRY_PAUSE_S)

    async def repeat_last(self) -> None:
        """Repeat the last acknowledged requests: each is answered as a duplicate."""
        following = self.sequence
        for sequence, values, partitions in [*self.acknowledged]:
            self.sequence = sequence
            result = await self.attempt(values, partitions)
            while result.outcome != "ok":
                await pause(RETRY_PAUSE_S)
                result = await self.attempt(values, partitions)
            assert result.document["duplicate"] is True, (self.process, values)
        self.sequence = following


class Reader:
    """Reads one partition from an offset on."""

    def __init__(
        self, recorder: Recorder, call: Call, process: str, topic: str, partition: int = 0, offset: int = 0
    ) -> None:
        self.recorder = recorder
        self.call = call
        self.process = process
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.session = 0

    def seek(self, offset: int) -> None:
        """Go on at another offset."""
        self.offset = offset
        self.session += 1

    async def poll(self, max_records: int = 100, wait_ms: int = 0, *, final: bool = False) -> Result:
        """Read the next page."""
        path = f"/v1/topics/{self.topic}/partitions/{self.partition}/records"
        query = f"?offset={self.offset}&max_records={max_records}&max_wait_ms={wait_ms}"
        result = await self.recorder.run(self.call, "GET", path + query)
        self.recorder.add(self._event(result, final=final))
        if result.outcome == "ok":
            self.offset = result.document["next_offset"]
        return result

    def _event(self, result: Result, *, final: bool = False, unwoken: bool = False) -> Poll:
        page: dict[str, Any] = result.document if result.outcome == "ok" else {}
        return Poll(
            process=self.process,
            session=str(self.session),
            partition=f"{self.topic}/{self.partition}",
            from_offset=self.offset,
            next_offset=page.get("next_offset", -1),
            log_start_offset=page.get("log_start_offset", 0),
            log_end_offset=page.get("log_end_offset", -1),
            records=[(record["offset"], str(record["value"])) for record in page.get("records", ())],
            final=final,
            unwoken=unwoken,
            **result.times,
        )

    def give_up(self, began: int) -> None:
        """Record a poll whose client waited for long enough after a record was acknowledged, and then left."""
        poll = Poll(
            process=self.process,
            session=str(self.session),
            partition=f"{self.topic}/{self.partition}",
            from_offset=self.offset,
            began=began,
            ended=self.recorder.now(),
            outcome="info",
            unwoken=True,
        )
        self.recorder.add(poll)

    async def read_to_end(self, *, max_records: int = 10_000, final: bool = False) -> None:
        """Read until the log ends, or the offset is refused or does not rise. A lost answer is asked for again."""
        while True:
            before = self.offset
            result = await self.poll(max_records, final=final)
            if result.outcome == "ok":
                if self.offset >= result.document["log_end_offset"] or self.offset <= before:
                    return
            elif result.answer is not None and result.answer.status < 500:
                return
            else:
                await pause(RETRY_PAUSE_S)


async def final_polls(recorder: Recorder, call: Call, topic: str, partitions: Iterable[int]) -> None:
    """Read each partition from its log start offset to its end, as the last reading of the history."""
    for partition in partitions:
        while True:
            bounds = await recorder.run(call, "GET", f"/v1/topics/{topic}/partitions/{partition}")
            if bounds.outcome == "ok":
                break
            await pause(RETRY_PAUSE_S)
        reader = Reader(recorder, call, "final", topic, partition, bounds.document["log_start_offset"])
        await reader.read_to_end(final=True)


async def trim(recorder: Recorder, call: Call, topic: str, partition: int, before_offset: int) -> None:
    """Delete the records of a partition before an offset."""
    path = f"/v1/topics/{topic}/partitions/{partition}/records?before_offset={before_offset}"
    result = await recorder.run(call, "DELETE", path)
    recorder.add(
        Trim(
            process="trimmer",
            partition=f"{topic}/{partition}",
            before_offset=before_offset,
            log_start_offset=result.document.get("log_start_offset", -1) if result.outcome == "ok" else -1,
            **result.times,
        )
    )
