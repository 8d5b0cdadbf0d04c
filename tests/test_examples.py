"""The programs of `examples/` do what their comments describe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.checkout import ROOT
from tests.e2e.support.api_calls import create_topic, produce
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not all(map(shutil.which, ("bash", "curl", "jq"))), reason="needs bash, curl and jq (apt install curl jq)"
    ),
]


class Consumer:
    """`examples/consumer.sh` as a member of the group `shell`."""

    def __init__(self, url: str, member: str, folder: Path, **variables: str) -> None:
        self._path = folder / f"{member}.out"
        with self._path.open("w") as out:
            self.process = subprocess.Popen(
                [ROOT / "examples" / "consumer.sh", "shell", "orders", member],
                env=os.environ | {"MILLRACE_URL": url} | variables,
                stdout=out,
                start_new_session=True,
            )

    def printed(self) -> list[int]:
        return [
            json.loads(line)["value"] for line in self._path.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path) as node:
        yield node


async def test_two_shell_consumers_share_a_topic_and_one_takes_over_from_the_other(
    node: ServerProcess, tmp_path: Path
) -> None:
    async with node.client() as client:
        await create_topic(client, "orders", 1)

        async def members() -> int:
            answer = await client.get("/v1/groups/shell")
            return len(answer.json().get("members", []))

        first = Consumer(node.url, "first", tmp_path)
        await until(members, lambda number: number == 1)
        second = Consumer(node.url, "second", tmp_path)
        await until(members, lambda number: number == 2)

        async def printed_by_both() -> list[int]:
            return sorted({*first.printed(), *second.printed()})

        await produce(client, "orders", 1, 2, 3)
        await until(printed_by_both, lambda values: values == [1, 2, 3])
        first.end()
        await until(members, lambda number: number == 1)
        await produce(client, "orders", 4, 5)
        await until(printed_by_both, lambda values: values == [1, 2, 3, 4, 5])
        second.end()

        assert await members() == 0
        assert not {4, 5} & set(first.printed())


async def test_a_shell_consumer_joins_with_the_session_timeout_of_its_environment(
    node: ServerProcess, tmp_path: Path
) -> None:
    async with node.client() as client:
        await create_topic(client, "orders", 1)
        consumer = Consumer(node.url, "first", tmp_path, SESSION_TIMEOUT_MS="7000")
        try:
            await until(lambda: client.get("/v1/groups/shell"), lambda answer: answer.status_code == 200)
            member = (await client.get("/v1/groups/shell/members/first")).json()
        finally:
            consumer.end()
        assert member["session_timeout_ms"] == 7000
