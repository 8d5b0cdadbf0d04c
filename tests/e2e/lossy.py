"""Calls to some nodes whose answers are lost on purpose, and nodes that are killed while they answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.e2e.node import Node

PATIENT_S = 20.0
IMPATIENT_S = 0.7
PAUSE_S = 0.03


class Lost(Exception):
    """There is no answer: what was asked was done, or it was not."""


class Answer(NamedTuple):
    """A status and a JSON document."""

    status: int
    document: dict[str, Any]

    @property
    def code(self) -> str:
        """What a refusal says of itself."""
        code: str = self.document.get("code", "")
        return code


class Fleet:
    """Nodes on one database, of which some are up."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self.up: list[Node] = []
        self._serving = asyncio.Event()

    async def start(self, *nodes: Node) -> None:
        """Start nodes that are down."""
        for node in nodes:
            await asyncio.to_thread(node.start)
            self.up.append(node)
        self._serving.set()

    async def kill(self, node: Node) -> None:
        """End a node by SIGKILL."""
        self.up.remove(node)
        if not self.up:
            self._serving.clear()
        await asyncio.to_thread(node.kill)

    async def any_url(self, rng: random.Random) -> str:
        """Return where one of the nodes is that are up, waiting for one if need be."""
        await self._serving.wait()
        return rng.choice(self.up).url


@dataclass
class Line:
    """One client's connection to a fleet, a new one for each call.

    Attributes:
        losses: Share of the answers to lose: half of them are cut off at some moment, half are thrown away unread.
        statuses: What was answered, by status and code.
        attempt_s: How long to wait for an answer.
    """

    fleet: Fleet
    rng: random.Random
    losses: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    attempt_s: float = PATIENT_S

    async def call(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask any node.

        Raises:
            Lost: No answer, or one that says that the server is in trouble.
        """
        url = await self.fleet.any_url(self.rng)
        chance = self.rng.random()
        body = b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
        request = request_of(url, method, path, body, headers or {})
        cut_s = self.rng.uniform(0, 0.04) if chance < self.losses / 2 else None
        try:
            raw = await exchange(url, request, cut_s, self.attempt_s)
        except (OSError, TimeoutError, Lost):
            self.statuses["lost"] += 1
            await asyncio.sleep(PAUSE_S)  # a client's pause before it tries again
            raise Lost from None
        if chance < self.losses:
            self.statuses["unread"] += 1
            raise Lost
        answer = parse(raw)
        self.statuses[f"{answer.status} {answer.code}".strip()] += 1
        assert answer.status < 500 or answer.status in {503, 504}, answer
        if answer.status >= 500:
            await asyncio.sleep(PAUSE_S)
            raise Lost
        return answer

    async def insist(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask the same until there is an answer."""
        while True:
            with contextlib.suppress(Lost):
                return await self.call(method, path, document, headers)


@contextlib.contextmanager
def frozen(node: Node) -> Iterator[None]:
    """Freeze a node for a while."""
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)


def request_of(url: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request after which the connection is closed."""
    host = httpx2.URL(url)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host.host}:{host.port}", "Connection: close"]
    lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def exchange(url: str, request: bytes, cut_s: float | None, attempt_s: float) -> bytes:
    """Send a request and return all that comes back.

    Args:
        url: The node.
        request: Its bytes.
        cut_s: Break the connection so long after all is sent, or not at all.
        attempt_s: Give up after so long.

    Raises:
        Lost: The connection was broken.
        TimeoutError, OSError
    """
    host = httpx2.URL(url)
    async with asyncio.timeout(attempt_s):
        reader, writer = await asyncio.open_connection(host.host, host.port)
        try:
            writer.write(request)
            await writer.drain()
            if cut_s is None:
                return await reader.read()
            await asyncio.sleep(cut_s)  # the moment of the loss
            raise Lost
        finally:
            writer.transport.abort()


def parse(raw: bytes) -> Answer:
    """Return what a node answered.

    Raises:
        Lost: It is not complete.
    """
    head, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        raise Lost
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if len(body) < int(headers.get("content-length", 0)):
        raise Lost
    return Answer(int(status.split()[1]), json.loads(body) if body else {})
