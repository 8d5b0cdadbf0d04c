"""On SQLite each append is flushed to the disk before it is answered: seen from outside, in the system calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import create_topic
from tests.e2e.support.server_process import PROGRAM, ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STRACE = shutil.which("strace")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(STRACE is None, reason="no strace on this machine; Debian's package strace has it"),
]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
NUMBERS = [10, pytest.param(2_000 if LONG else 200, marks=pytest.mark.slow)]
TRACE_S = 120.0
CALLS = "pwrite64,pwritev,fdatasync,fsync,write,writev,sendto,sendmsg"
FAULTY = (sys.executable, "-m", "tests.history.planted.faulty_server", "fsync off")
CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")
RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. (?P<name>\w+) resumed>")


def can_trace() -> bool:
    """Return whether this process may trace others; containers can forbid it."""
    return STRACE is not None and subprocess.run([STRACE, "true"], capture_output=True, check=False).returncode == 0


def answered_before_flush(lines: Iterable[str], markers: list[str]) -> list[str]:
    """Return the markers of the records that were answered before a flush had followed the write of the record.

    Args:
        lines: The system calls of all threads. A flush counts when it has returned.
        markers: A part of each record, in the order of the requests, each sent after the answer to the one before.
    """
    left, early = list(markers), []
    written = flushed = False
    flushing: set[str] = set()
    for line in lines:
        if (resumed := RESUMED.match(line)) is not None:
            if resumed["thread"] in flushing:
                flushing.remove(resumed["thread"])
                flushed = written
        elif (call := CALL.match(line)) is not None and left:
            if call["name"] in {"pwrite64", "pwritev"} and left[0] in call["rest"]:
                written, flushed = True, False
                flushing.clear()
            elif call["name"] in {"fdatasync", "fsync"} and "-wal" in call["rest"]:
                if "unfinished" in call["rest"]:
                    flushing.add(call["thread"])
                else:
                    flushed = written
            elif written and "HTTP/1.1 201" in call["rest"]:
                marker = left.pop(0)
                early += [] if flushed else [marker]
                written = flushed = False
    assert not left, f"no answer was seen to {left}"
    return early


async def end_of(trace: Path) -> str:
    """Return the last lines of a trace, which strace goes on writing for a moment."""
    with trace.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 500))
        return file.read().decode(errors="replace")


async def traced_appends(directory: Path, program: tuple[str, ...], number: int) -> list[str]:
    """Append records one after the other to a traced server, and return those that were answered before the flush."""
    if not can_trace():
        pytest.skip("strace may not trace processes here; a container needs the capability SYS_PTRACE")
    trace = directory / "trace"
    strace = (str(STRACE), "-D", "-f", "-y", "-s", "9000", "-e", f"trace={CALLS}", "-o", str(trace))
    markers = [f"marker-{index:05}" for index in range(number)]
    with ServerProcess(f"sqlite:///{directory / 'millrace.db'}", directory, program=(*strace, *program)) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            for marker in markers:
                answer = await client.post("/v1/topics/orders/records", json={"value": marker})
                assert answer.status_code == 201, answer.text
        pid = node.pid
        node.terminate()
        assert node.exit_code() == 0
        await until(lambda: end_of(trace), lambda end: f"{pid:<5} +++ exited with 0 +++" in end, seconds=TRACE_S)
    with trace.open(errors="replace") as lines:
        return answered_before_flush(lines, markers)


@pytest.mark.parametrize("number", NUMBERS)
async def test_each_append_is_flushed_before_its_answer(tmp_path: Path, number: int) -> None:
    assert await traced_appends(tmp_path, PROGRAM, number) == []
    print(f"{number} appends, each flushed before its answer")


async def test_a_server_that_does_not_flush_is_found(tmp_path: Path) -> None:
    assert len(await traced_appends(tmp_path, FAULTY, 5)) == 5
