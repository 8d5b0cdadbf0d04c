"""The programs of `examples/` do what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.node import ROOT, Node, create_topic, produce, until

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

    def end(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)
        self.process.wait(20)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path) as node:
        yield node


async def test_two_shell_consumers_share_a_topic_and_one_that_is_stopped_leaves_its_part_to_the_other(
    node: Node, tmp_path: Path
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

        async def both() -> list[int]:
            return sorted({*first.printed(), *second.printed()})

        await produce(client, "orders", 1, 2, 3)
        await until(both, lambda values: values == [1, 2, 3])
        first.end(signal.SIGTERM)
        await until(members, lambda number: number == 1)
        await produce(client, "orders", 4, 5)
        await until(both, lambda values: values == [1, 2, 3, 4, 5])
        second.end(signal.SIGTERM)

        assert await members() == 0
        assert not {4, 5} & set(first.printed())


async def test_a_shell_consumer_joins_with_the_session_timeout_of_its_environment(node: Node, tmp_path: Path) -> None:
    async with node.client() as client:
        await create_topic(client, "orders", 1)
        consumer = Consumer(node.url, "first", tmp_path, SESSION_TIMEOUT_MS="7000")
        try:
            await until(lambda: client.get("/v1/groups/shell"), lambda answer: answer.status_code == 200)
            member = (await client.get("/v1/groups/shell/members/first")).json()
        finally:
            consumer.end(signal.SIGTERM)
        assert member["session_timeout_ms"] == 7000
