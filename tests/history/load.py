"""Clients of all kinds that keep on working while servers and databases fail, and the check of what they saw."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

import httpx2

from tests.e2e.support.api_calls import client_of, create_topic
from tests.e2e.support.raw_http import Answer, AnswerLost
from tests.history.checker import assert_sound
from tests.history.events import Poll, Send, save
from tests.history.group_clients import Member, Worker
from tests.history.log_clients import Kind, Producer, Reader, final_polls
from tests.history.recorder import Recorder
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TOPIC = "ledger"
PARTITIONS = 3
GROUP = "readers"
QUEUE = "jobs"
LOCK_MS = 2_000
SESSION_MS = 6_000
RETRY_PAUSE_S = 0.05
REQUEST_TIMEOUT_S = 20.0
WAIT_MS = 200
KINDS: tuple[Kind, ...] = get_args(Kind)
UNAVAILABLE = {503, 504}
REFUSED_CODES = {
    "CONCURRENT_REQUEST",
    "FENCED_MEMBER_EPOCH",
    "UNKNOWN_MEMBER_ID",
    "STALE_MEMBER_EPOCH",
    "OFFSET_CONFLICT",
}
"""What a client that follows the rules can be answered besides success while the server fails: it goes on after it."""

_started: list[Load] = []


async def close_loads() -> None:
    """Close the connections of all loads, such as that of a test that failed."""
    for load in _started:
        await load.close()
    _started.clear()


@dataclass
class Load:
    """Producers, readers, members and workers of one topic.

    Attributes:
        pace_s: Pause of each client between two operations.
        urls: The servers that are expected to answer; `serving` is set while there is one.
        stopped: No new requests; those without an answer are still repeated.
        progress: Set at each acknowledgement.
        statuses: Number of answers by status.
        faults: Answers that no client should get; `audit` expects none.
    """

    rng: random.Random
    recorder: Recorder = field(default_factory=Recorder)
    pace_s: float = 0.02
    urls: list[str] = field(default_factory=list)
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    acknowledged: int = 0
    producers: list[Producer] = field(default_factory=list)
    _clients: dict[str, httpx2.AsyncClient] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _started.append(self)

    def serve_from(self, *urls: str) -> None:
        """Send all requests to these servers from now on."""
        self.urls = list(urls)
        if urls:
            self.serving.set()
        else:
            self.serving.clear()

    async def await_acknowledgements(self, number: int, seconds: float = 30.0) -> None:
        """Wait for so many further acknowledgements of producers."""
        goal = self.acknowledged + number
        async with asyncio.timeout(seconds):
            while self.acknowledged < goal:
                self.progress.clear()
                await self.progress.wait()

    async def call(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request to one of the servers.

        Raises:
            AnswerLost: There was no answer.
        """
        await self.serving.wait()
        return await self.call_server(self.rng.choice(self.urls), method, path, document, headers)

    async def call_server(
        self, url: str, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request to one server."""
        if url not in self._clients:
            self._clients[url] = client_of(url)
        client = self._clients[url]
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                answer = await client.request(method, path, json=document, headers=headers)
        except httpx2.TransportError:
            await pause(RETRY_PAUSE_S)
            raise AnswerLost from None
        except TimeoutError:
            self.faults.append(f"{method} {path}: no answer within {REQUEST_TIMEOUT_S} s")
            raise AnswerLost from None
        self._note(method, path, answer)
        return Answer(answer.status_code, answer.json() if answer.content else {})

    def _note(self, method: str, path: str, answer: httpx2.Response) -> None:
        self.statuses[answer.status_code] += 1
        if answer.is_success:
            if path.endswith("/records"):
                self.acknowledged += method == "POST"
                self.progress.set()
            return
        if answer.headers["content-type"] != "application/problem+json":
            self.faults.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return
        problem = answer.json()
        unknown = answer.status_code == 504
        if answer.status_code not in UNAVAILABLE and problem["code"] not in REFUSED_CODES:
            self.faults.append(f"{method} {path}: {answer.text}")
        if unknown != (problem.get("outcome") == "unknown") or (unknown and problem["retriable"]):
            self.faults.append(f"{method} {path}: {answer.text}")

    def start(self, group: asyncio.TaskGroup, *, producers_of_a_kind: int = 2, kinds: Sequence[Kind] = KINDS) -> None:
        """Start producers of each kind, and a reader of each partition."""
        for kind in kinds:
            for number in range(producers_of_a_kind):
                group.create_task(self.produce(kind, f"{kind}-{number}"))
        for partition in range(PARTITIONS):
            group.create_task(self.read(partition))

    async def create(self) -> None:
        """Create the topic and the queue."""
        async with client_of(self.urls[0]) as client:
            await create_topic(client, TOPIC, PARTITIONS)
            settings = {"topic": TOPIC, "lock_duration_ms": LOCK_MS, "max_delivery_count": 100}
            assert (await client.put(f"/v1/queues/{QUEUE}", json=settings)).status_code == 201

    async def produce(self, kind: Kind, name: str) -> None:
        """Send one request after the other until stopped."""
        producer = Producer(self.recorder, self.call, name, TOPIC, kind, producer_id=name)
        self.producers.append(producer)
        while not self.stopped.is_set():
            values = producer.next_values(self.rng.randint(1, 4))
            await producer.send(values, sorted(self.rng.randrange(PARTITIONS) for _ in values))
            await pause(self.pace_s)

    async def read(self, partition: int) -> None:
        """Read a partition from its start, with waits for new records."""
        reader = Reader(self.recorder, self.call, f"reader-{partition}", TOPIC, partition)
        while not self.stopped.is_set():
            result = await reader.poll(self.rng.randint(1, 50), WAIT_MS)
            await pause(self.pace_s if result.outcome == "ok" else RETRY_PAUSE_S)

    async def consume(self, name: str) -> None:
        """Poll and commit as a member of the group; join again after a refusal."""
        member = Member(self.recorder, self.call, name, TOPIC, group=GROUP, session_ms=SESSION_MS)
        joined = False
        while not self.stopped.is_set():
            result = await (member.poll(20, WAIT_MS) if joined else member.join())
            if result.outcome == "ok" and joined and member.next_offsets:
                result = await member.commit()
            joined = result.outcome != "fail" and (joined or result.outcome == "ok")
            await pause(self.pace_s)

    async def work(self, name: str) -> None:
        """Acquire records of the queue and accept them."""
        worker = Worker(self.recorder, self.call, name, QUEUE, TOPIC, LOCK_MS)
        while not self.stopped.is_set():
            found = await worker.acquire(20)
            if found:
                await worker.acknowledge(found)
            await pause(self.pace_s if found else RETRY_PAUSE_S)

    async def audit(self, history: Path | None = None) -> int:
        """Repeat the last requests, read the topic, and check the history. Return the number of records."""
        try:
            for producer in self.producers:
                await producer.repeat_last()
            await final_polls(self.recorder, self.call, TOPIC, range(PARTITIONS))
            assert not self.faults, self.faults[:5]
            assert_sound(self.recorder.history)
        except BaseException:
            if history is not None:
                save(history, self.recorder.history)
                print(f"history: {history}")
            raise
        finally:
            await self.close()
        return sum(len(event.records) for event in self.recorder.history if isinstance(event, Poll) and event.final)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()


def longest_outage_s(load: Load) -> float:
    """Return the longest time without an acknowledged send."""
    ended = sorted(event.ended for event in load.recorder.history if isinstance(event, Send) and event.outcome == "ok")
    return max((after - before for before, after in pairwise(ended)), default=0) / 1e9
