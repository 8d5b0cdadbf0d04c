"""Producers that go on whatever happens to the server, and the account of what it owes them.

Each request has a name and some records, `name/0/3`, `name/1/3` …, which say how many belong together. Three
kinds of producers: `plain` never repeats, so that a request without an answer may be there or not; `sequence`
(an idempotent producer) and `key` (an Idempotency-Key) repeat until they are answered.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2

from tests.e2e.node import client_of, read_topic

Kind = Literal["plain", "sequence", "key"]
KINDS: tuple[Kind, ...] = ("plain", "sequence", "key")
TOPIC = "ledger"
PARTITIONS = 3
PAUSE_S = 0.05
ATTEMPT_S = 20.0


@dataclass
class Request:
    """One request, and what became of it.

    Attributes:
        places: Partition and offset of each record, as first acknowledged.
        refused: It was refused with the promise that nothing was written.
    """

    name: str
    kind: Kind
    size: int
    headers: dict[str, str]
    body: bytes
    places: list[tuple[int, int]] | None = None
    refused: bool = False


@dataclass
class Ledger:
    """What was asked of the server and what it answered.

    Attributes:
        url: Where the server is now; `serving` is set while it is expected to answer.
        stopped: No new requests; those without an answer are still repeated.
        progress: Set at each acknowledgement.
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
        """Number of requests that were acknowledged."""
        return sum(request.places is not None for request in self.requests)

    async def acknowledge(self, number: int) -> None:
        """Wait for a number of further acknowledgements."""
        goal = self.acknowledged + number
        async with asyncio.timeout(30):
            while self.acknowledged < goal:
                self.progress.clear()
                await self.progress.wait()

    async def run(self, kind: Kind, name: str) -> None:
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
                    if await self._attempt(client, request) or kind == "plain":
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

    async def _attempt(self, client: httpx2.AsyncClient, request: Request) -> bool:
        """Send a request once and return whether it is settled."""
        try:
            async with asyncio.timeout(ATTEMPT_S):
                answer = await client.post(f"/v1/topics/{TOPIC}/records", content=request.body, headers=request.headers)
        except httpx2.TransportError:
            await asyncio.sleep(PAUSE_S)  # a client's pause before it tries again
            return False
        except TimeoutError:
            self.faults.append(f"{request.name}: no answer within {ATTEMPT_S} s")
            return False
        self.statuses[answer.status_code] += 1
        if answer.status_code in {200, 201}:
            self._settle(request, answer.json(), duplicate=answer.status_code == 200)
            return True
        self._refused(request, answer)
        await asyncio.sleep(PAUSE_S)
        return False

    def _settle(self, request: Request, document: dict[str, Any], *, duplicate: bool) -> None:
        places = [(place["partition"], place["offset"]) for place in document["offsets"]]
        if duplicate != document.get("duplicate", False):
            self.faults.append(f"{request.name}: duplicate is {document.get('duplicate')}")
        if request.places is not None and request.places != places:
            self.faults.append(f"{request.name}: first {request.places}, then {places}")
        request.places = places
        self.progress.set()

    def _refused(self, request: Request, answer: httpx2.Response) -> None:
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
        """Repeat what can be repeated, read everything, and compare. Return the number of records."""
        assert self.faults == []
        async with client_of(self.url) as client:
            before = await read_topic(client, TOPIC, range(PARTITIONS))
            await self._replay(client)
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

    async def _replay(self, client: httpx2.AsyncClient) -> None:
        """Repeat all requests with a key, and the last five of each idempotent producer."""
        of_producer: dict[str, list[Request]] = {}
        for request in self.requests:
            if request.kind == "sequence":
                of_producer.setdefault(request.headers["Producer-Id"], []).append(request)
        repeated = [request for requests in of_producer.values() for request in requests[-5:]]
        repeated += [request for request in self.requests if request.kind == "key"][-300:]
        for request in repeated:
            first = request.places
            assert first is not None, request.name
            assert await self._attempt(client, request)
            assert request.places == first

    def _check(self, request: Request, found: dict[tuple[int, int], str], times: Counter[str]) -> None:
        present = [times[value] for value in _values(request)]
        assert sum(present) in {0, request.size}, f"{request.name} is there in part: {present}"
        if request.places is not None:
            assert [found.get(place) for place in request.places] == _values(request), request.name
        elif request.refused:
            assert sum(present) == 0, f"{request.name} was refused as retriable and is there"
        else:
            assert request.kind == "plain", f"{request.name} was never answered"


def _values(request: Request) -> list[str]:
    return [f"{request.name}/{i}/{request.size}" for i in range(request.size)]
