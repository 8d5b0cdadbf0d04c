"""Producers that keep on sending while the server is killed, and the check of what it acknowledged.

Each request has a name and some records `name/0/3`, `name/1/3` …; the last number is the number of records. There
are three kinds of producers. `plain` does not repeat a request: one without an answer may or may not be in the log.
`sequence` (an idempotent producer) and `key` (an Idempotency-Key) repeat a request until it is answered.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2

from tests.e2e.support.api_calls import client_of, read_topic
from tests.waiting import pause

Kind = Literal["plain", "sequence", "key"]
KINDS: tuple[Kind, ...] = ("plain", "sequence", "key")
TOPIC = "ledger"
PARTITIONS = 3
RETRY_PAUSE_S = 0.05
REQUEST_TIMEOUT_S = 20.0


@dataclass
class Request:
    """One request and its result.

    Attributes:
        offsets: Partition and offset of each record, as first acknowledged.
        refused: Whether it was refused as retriable: none of its records may be in the log.
    """

    name: str
    kind: Kind
    size: int
    headers: dict[str, str]
    body: bytes
    offsets: list[tuple[int, int]] | None = None
    refused: bool = False


@dataclass
class ProduceLedger:
    """All requests with their results.

    Attributes:
        url: The current URL of the server; `serving` is set while the server is expected to answer.
        stopped: No new requests; those without an answer are still repeated.
        progress: Set at each acknowledgement.
        faults: Violations found while producing; `audit` expects none.
    """

    rng: random.Random
    url: str = ""
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[Request] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged requests."""
        return sum(request.offsets is not None for request in self.requests)

    def serve_from(self, url: str) -> None:
        """Send all requests to this URL from now on."""
        self.url = url
        self.serving.set()

    async def await_acknowledgements(self, number: int) -> None:
        """Wait for so many further acknowledgements."""
        goal = self.acknowledged + number
        async with asyncio.timeout(30):
            while self.acknowledged < goal:
                self.progress.clear()
                await self.progress.wait()

    async def produce(self, kind: Kind, name: str) -> None:
        """Send one request after the other until stopped."""
        client, url = client_of(self.url), self.url
        number = 0
        try:
            while not self.stopped.is_set():
                request = self._request(kind, name, number)
                self.requests.append(request)
                number += 1
                while True:
                    await self.serving.wait()
                    if url != self.url:
                        await client.aclose()
                        client, url = client_of(self.url), self.url
                    if await self._send(client, request) or kind == "plain":
                        break
        finally:
            await client.aclose()

    def _request(self, kind: Kind, name: str, number: int) -> Request:
        size = self.rng.randint(1, 4)
        title = f"{name}.{number}"
        records = [{"value": f"{title}/{i}/{size}", "key": f"{self.rng.randrange(40)}"} for i in range(size)]
        headers = {"Content-Type": "application/json"}
        if kind == "key":
            headers["Idempotency-Key"] = title
        if kind == "sequence":
            headers |= {"Producer-Id": name, "Producer-Epoch": "0", "Producer-Sequence": str(number)}
        return Request(title, kind, size, headers, json.dumps({"records": records}).encode())

    async def _send(self, client: httpx2.AsyncClient, request: Request) -> bool:
        """Send a request once, and return whether it was acknowledged."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                answer = await client.post(f"/v1/topics/{TOPIC}/records", content=request.body, headers=request.headers)
        except httpx2.TransportError:
            await pause(RETRY_PAUSE_S)
            return False
        except TimeoutError:
            self.faults.append(f"{request.name}: no answer within {REQUEST_TIMEOUT_S} s")
            return False
        self.statuses[answer.status_code] += 1
        if answer.status_code in {200, 201}:
            self._note_acknowledged(request, answer.json(), duplicate=answer.status_code == 200)
            return True
        self._note_refused(request, answer)
        await pause(RETRY_PAUSE_S)
        return False

    def _note_acknowledged(self, request: Request, document: dict[str, Any], *, duplicate: bool) -> None:
        offsets = [(one["partition"], one["offset"]) for one in document["offsets"]]
        if duplicate != document.get("duplicate", False):
            self.faults.append(f"{request.name}: duplicate is {document.get('duplicate')}")
        if request.offsets is not None and request.offsets != offsets:
            self.faults.append(f"{request.name}: first {request.offsets}, then {offsets}")
        request.offsets = offsets
        self.progress.set()

    def _note_refused(self, request: Request, answer: httpx2.Response) -> None:
        if answer.headers["content-type"] != "application/problem+json":
            self.faults.append(f"{request.name}: {answer.status_code} {answer.text[:300]}")
            return
        problem = answer.json()
        request.refused = problem["retriable"]
        if answer.status_code not in {503, 504} and problem["code"] != "CONCURRENT_REQUEST":
            self.faults.append(f"{request.name}: {answer.text}")
        if answer.status_code == 504 and (problem["retriable"] or problem.get("outcome") != "unknown"):
            self.faults.append(f"{request.name}: {answer.text}")

    async def audit(self) -> int:
        """Repeat the repeatable requests, read the topic and compare. Return the number of records."""
        assert self.faults == []
        async with client_of(self.url) as client:
            before = await read_topic(client, TOPIC, range(PARTITIONS))
            await self._repeat(client)
            partitions = await read_topic(client, TOPIC, range(PARTITIONS))
        assert partitions == before
        assert self.faults == []
        found = {
            (partition, record["offset"]): record["value"]
            for partition, records in enumerate(partitions)
            for record in records
        }
        times = Counter(found.values())
        assert [value for value, number in times.items() if number > 1] == []
        for request in self.requests:
            self._check(request, found, times)
        assert len(times) == sum(times[value] for request in self.requests for value in _values(request))
        return len(found)

    async def _repeat(self, client: httpx2.AsyncClient) -> None:
        """Repeat the last 300 requests with a key, and the last five of each idempotent producer."""
        of_producer: dict[str, list[Request]] = {}
        for request in self.requests:
            if request.kind == "sequence":
                of_producer.setdefault(request.headers["Producer-Id"], []).append(request)
        repeated = [request for requests in of_producer.values() for request in requests[-5:]]
        repeated += [request for request in self.requests if request.kind == "key"][-300:]
        for request in repeated:
            first = request.offsets
            assert first is not None, request.name
            assert await self._send(client, request)
            assert request.offsets == first

    def _check(self, request: Request, found: dict[tuple[int, int], str], times: Counter[str]) -> None:
        present = [times[value] for value in _values(request)]
        assert sum(present) in {0, request.size}, f"only a part of {request.name} is in the log: {present}"
        if request.offsets is not None:
            assert [found.get(offset) for offset in request.offsets] == _values(request), request.name
        elif request.refused:
            assert sum(present) == 0, f"{request.name} was refused as retriable and is in the log"
        else:
            assert request.kind == "plain", f"{request.name} was never answered"


def _values(request: Request) -> list[str]:
    return [f"{request.name}/{i}/{request.size}" for i in range(request.size)]
