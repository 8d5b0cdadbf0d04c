"""Two nodes are restarted one after the other under load: one retry mends each request that fails."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.raw_http import Answer, AnswerLost
from tests.e2e.support.server_process import ServerProcess, running
from tests.history.load import UNAVAILABLE, Load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ROUNDS = [1, pytest.param(50 if LONG else 5, marks=pytest.mark.slow)]


class RetryingLoad(Load):
    """Sends a request that fails once more, to the other node, as a proxy does."""

    retries = 0

    async def call(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request, and send it to the other node if it fails."""
        first, second = self.rng.sample(self.urls, 2)
        try:
            answer = await self.call_server(first, method, path, document, headers)
        except AnswerLost:
            pass
        else:
            if answer.status not in UNAVAILABLE:
                return answer
        self.retries += 1
        try:
            answer = await self.call_server(second, method, path, document, headers)
        except AnswerLost:
            self.faults.append(f"{method} {path}: the retry had no answer")
            raise
        if answer.status in UNAVAILABLE:
            self.faults.append(f"{method} {path}: the retry was answered {answer}")
        return answer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_one_retry_mends_each_request_that_fails_in_a_rolling_restart(
    migrated_postgres_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    load = RetryingLoad(random.Random(seed))
    nodes = [ServerProcess(migrated_postgres_url, tmp_path, port=free_port()) for _ in range(2)]
    with running(*nodes):
        load.serve_from(*(node.url for node in nodes))
        await load.create()
        async with asyncio.TaskGroup() as group:
            load.start(group, producers_of_a_kind=1, kinds=("key", "sequence"))
            group.create_task(load.consume("member"))
            for node in nodes * rounds:
                await load.await_acknowledgements(load.rng.randint(5, 20))
                node.terminate()
                assert await asyncio.to_thread(node.exit_code) == 0
                await load.await_acknowledgements(5)
                await asyncio.to_thread(node.start)
            await load.await_acknowledgements(20)
            load.stopped.set()
        assert await load.audit(tmp_path / "history.jsonl") > 20 * rounds
    print(f"{load.retries} retries of {sum(load.statuses.values())} requests in {2 * rounds} restarts")
