"""Consumers that share a group, and what the server says of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from app.cli.client import Client
from tests.cli.running import DEADLINE_S

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.cli.running import Cli


def until(condition: Callable[[], bool]) -> float:
    """Wait until something is so. Return the seconds that it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < DEADLINE_S
    return time.monotonic() - began_s


def started(cli: Cli, topic: str, member: str, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a consumer of the group that is named as the topic."""
    return cli.started("consume", topic, "--group", topic, "--member-id", member, *words)


def holdings(cli: Cli, group: str) -> dict[str, int]:
    """Return how many partitions each member holds."""
    done = cli("groups", "describe", group)
    members = json.loads(done.out)["group"]["members"] if done.code == 0 else []
    return {member["member_id"]: sum(len(one["partitions"]) for one in member["assignment"]) for member in members}


def offsets(cli: Cli, group: str) -> dict[int, int]:
    """Return where a group stands in each partition of its topic."""
    lines = map(json.loads, cli.ok("groups", "offsets", group).lines)
    return {one["partition"]: one["committed_offset"] for one in lines}


def lag(cli: Cli, group: str) -> int:
    """Return how many records a group has not committed."""
    return sum(json.loads(line)["lag"] for line in cli.ok("groups", "offsets", group).lines)


def produce(cli: Cli, topic: str, numbers: range, padding: str = "") -> None:
    """Append records, each with its number as value and key."""
    lines = "".join(f'{{"n":{n},"padding":"{padding}"}}\n' for n in numbers)
    cli.ok("produce", topic, "--key", "/n", stdin=lines.encode())


def numbers(output: bytes) -> list[int]:
    """Return the numbers of the records, in order of output."""
    return [record(line)["value"]["n"] for line in output.splitlines()]


def record(line: bytes) -> dict[str, Any]:
    """Return a record."""
    found: dict[str, Any] = json.loads(line)
    return found


def call(cli: Cli, method: str, path: str, body: object = None) -> Any:
    """Ask the server; return its document, if it gives one."""
    with Client(cli.url) as client:
        content = client.send(method, path, body=None if body is None else json.dumps(body).encode()).content
    return json.loads(content) if content else None
