"""A server works for ten minutes: its memory, its descriptors and its write-ahead log do not grow."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.e2e.support.server_process import ServerProcess
from tests.history.load import Load
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read in /proc"),
]

SECONDS = int(os.environ.get("MILLRACE_SOAK_S", "600"))
SAMPLE_S = 1.0
MIB = 1024 * 1024
MOST_GROWTH_BYTES = 16 * MIB
MOST_WAL_BYTES = 64 * MIB


class Sample(NamedTuple):
    """What the server uses at a time."""

    memory_bytes: int
    descriptors: int
    wal_bytes: int


def sample(pid: int, wal: Path) -> Sample:
    """Return what a process uses now."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Sample(int(line.split()[1]) * 1024, descriptors, wal.stat().st_size if wal.exists() else 0)


async def work(load: Load, node: ServerProcess, wal: Path) -> list[Sample]:
    """Let all kinds of clients work, and return one sample a second."""
    samples = []
    async with asyncio.TaskGroup() as group:
        load.start(group)
        for number in range(2):
            group.create_task(load.consume(f"member-{number}"))
            group.create_task(load.work(f"worker-{number}"))
        for _ in range(int(SECONDS / SAMPLE_S)):
            await pause(SAMPLE_S)
            samples.append(await asyncio.to_thread(sample, node.pid, wal))
        load.stopped.set()
    return samples


def growth(values: Sequence[int]) -> float:
    """Return by how much the last quarter is above the second: the first one warms up."""
    quarter = len(values) // 4
    return median(values[-quarter:]) - median(values[quarter : 2 * quarter])


async def test_memory_descriptors_and_log_do_not_grow_in_a_soak(sqlite_url: str, tmp_path: Path, seed: int) -> None:
    load = Load(random.Random(seed), pace_s=0.0)
    with ServerProcess(sqlite_url, tmp_path, settings={"retention_interval_ms": 1_000}) as node:
        load.serve_from(node.url)
        await load.create()
        samples = await work(load, node, tmp_path / "millrace.db-wal")
        records = await load.audit(tmp_path / "history.jsonl")
        assert "Traceback" not in node.log
    memory, descriptors = (
        growth([each.memory_bytes for each in samples]),
        growth([each.descriptors for each in samples]),
    )
    wal = max(each.wal_bytes for each in samples)
    print(
        f"{SECONDS} s, {records} records, {sum(load.statuses.values())} requests: memory {memory / MIB:+.1f} MiB to "
        f"{samples[-1].memory_bytes / MIB:.0f} MiB, descriptors {descriptors:+.0f}, log at most {wal / MIB:.1f} MiB"
    )
    assert memory < MOST_GROWTH_BYTES
    assert descriptors <= 2
    assert wal < MOST_WAL_BYTES
