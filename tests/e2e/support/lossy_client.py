"""A cluster whose nodes are killed and restarted, and a client of it that loses answers on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.e2e.support.raw_http import Answer, AnswerLost, exchange, parse, request_of
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.e2e.support.server_process import ServerProcess

LONG_TIMEOUT_S = 20.0
SHORT_TIMEOUT_S = 0.7
RETRY_PAUSE_S = 0.03


class Cluster:
    """Nodes on one database.

    Attributes:
        nodes: All nodes.
        up: The nodes that run.
    """

    def __init__(self, nodes: Sequence[ServerProcess]) -> None:
        self.nodes = tuple(nodes)
        self.up: list[ServerProcess] = []
        self._any_up = asyncio.Event()

    async def start(self, *nodes: ServerProcess) -> None:
        """Start nodes that are down."""
        for node in nodes:
            await asyncio.to_thread(node.start)
            self.up.append(node)
        self._any_up.set()

    async def kill(self, node: ServerProcess) -> None:
        """End a node by SIGKILL."""
        self.up.remove(node)
        if not self.up:
            self._any_up.clear()
        await asyncio.to_thread(node.kill)

    async def any_url(self, rng: random.Random) -> str:
        """Wait until a node is up, and return the URL of one of those that are."""
        await self._any_up.wait()
        return rng.choice(self.up).url


@dataclass
class LossyClient:
    """A client that sends each request to a random node, on a new connection.

    Attributes:
        losses: Share of the answers to lose: half by a broken connection, half by an answer that is not read.
        statuses: Number of answers by status and code.
        timeout_s: Limit for one request.
    """

    cluster: Cluster
    rng: random.Random
    losses: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    timeout_s: float = LONG_TIMEOUT_S

    async def call(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request once.

        Raises:
            AnswerLost: No answer, or a 503 or 504.
        """
        url = await self.cluster.any_url(self.rng)
        chance = self.rng.random()
        body = b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
        request = request_of(url, method, path, body, headers or {})
        cut_after_s = self.rng.uniform(0, 0.04) if chance < self.losses / 2 else None
        try:
            raw = await exchange(url, request, cut_after_s, self.timeout_s)
        except (OSError, TimeoutError, AnswerLost):
            self.statuses["lost"] += 1
            await pause(RETRY_PAUSE_S)
            raise AnswerLost from None
        if chance < self.losses:
            self.statuses["unread"] += 1
            raise AnswerLost
        answer = parse(raw)
        self.statuses[f"{answer.status} {answer.code}".strip()] += 1
        assert answer.status < 500 or answer.status in {503, 504}, answer
        if answer.status >= 500:
            await pause(RETRY_PAUSE_S)
            raise AnswerLost
        return answer

    async def call_until_answered(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send the same request until it is answered."""
        while True:
            with contextlib.suppress(AnswerLost):
                return await self.call(method, path, document, headers)
