"""Commands of a group's consumers, and the group's state as the server describes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from app.cli.client import Client

if TYPE_CHECKING:
    import subprocess
    from contextlib import AbstractContextManager

    from tests.cli.processes import Cli


def start_consumer(
    cli: Cli, topic: str, member_id: str, *options: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a consumer of a topic, in the group with the topic's name."""
    return cli.started("consume", topic, "--group", topic, "--member-id", member_id, *options)


def partition_counts(cli: Cli, group: str) -> dict[str, int]:
    """Return the number of partitions assigned to each member."""
    done = cli("groups", "describe", group)
    members = json.loads(done.out)["group"]["members"] if done.code == 0 else []
    return {member["member_id"]: sum(len(one["partitions"]) for one in member["assignment"]) for member in members}


def committed_offsets(cli: Cli, group: str) -> dict[int, int]:
    """Return the committed offset of each partition of the group's only topic."""
    lines = map(json.loads, cli.ok("groups", "offsets", group).lines)
    return {one["partition"]: one["committed_offset"] for one in lines}


def lag(cli: Cli, group: str) -> int:
    """Return how many records the group has not committed."""
    return sum(json.loads(line)["lag"] for line in cli.ok("groups", "offsets", group).lines)


def produce(cli: Cli, topic: str, numbers: range, padding: str = "") -> None:
    """Append a record for each number, with the number as its value and its key."""
    lines = "".join(f'{{"n":{n},"padding":"{padding}"}}\n' for n in numbers)
    cli.ok("produce", topic, "--key", "/n", stdin=lines.encode())


def numbers(output: bytes) -> list[int]:
    """Return the numbers of the records in a consumer's output."""
    return [record(line)["value"]["n"] for line in output.splitlines()]


def record(line: bytes) -> dict[str, Any]:
    """Decode one line of a consumer's output."""
    found: dict[str, Any] = json.loads(line)
    return found


def request(cli: Cli, method: str, path: str, body: object = None) -> Any:
    """Send a request to the server. Return the answer's document, if it has one."""
    with Client(cli.url) as client:
        content = client.send(method, path, body=None if body is None else json.dumps(body).encode()).content
    return json.loads(content) if content else None
