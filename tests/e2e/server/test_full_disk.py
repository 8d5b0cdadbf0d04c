"""A full disk under SQLite: appends are refused, reads and deletes still work, and appends resume."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.e2e.support.api_calls import create_topic, read_partition
from tests.e2e.support.server_process import PROGRAM, ServerProcess, StartFailed
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
DISKS = [(64 * MIB, 16 * MIB, 8 * MIB), (24 * MIB, 2 * MIB, 2 * MIB)]
"""Sizes of the disk, of the ballast by the settings, and of the ballast that the server keeps."""
VALUE_BYTES = 100_000
MAX_REQUESTS = 1_000
BYTES = {"Content-Type": "application/octet-stream"}


class Disk(NamedTuple):
    """A mounted file system, the ballast of the settings, and the ballast that fits it."""

    path: Path
    ballast_bytes: int
    kept_ballast_bytes: int


@pytest.fixture(params=DISKS, ids=["64 MiB", "24 MiB"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small file system in memory; only root can mount it."""
    size_bytes, ballast_bytes, kept_ballast_bytes = request.param
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "millrace-test", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield Disk(disk, ballast_bytes, kept_ballast_bytes)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def value(number: int) -> bytes:
    return number.to_bytes(4, "big") * (VALUE_BYTES // 4)


async def append(client: httpx2.AsyncClient, topic: str, number: int) -> httpx2.Response:
    path = f"/v1/topics/{topic}/partitions/0/records"
    return await client.post(path, content=value(number), headers=BYTES)


async def fill(client: httpx2.AsyncClient, topic: str) -> int:
    """Append until the disk is full, and return how many records were acknowledged."""
    for number in range(MAX_REQUESTS):
        answer = await append(client, topic, number)
        if answer.status_code != 201:
            problem = answer.json()
            assert problem["missing_bytes"] > 0
            assert f"free {problem['missing_bytes']:,} bytes" in problem["detail"]
            assert (answer.status_code, problem["code"], problem["retriable"]) == (507, "KAFKA_STORAGE_ERROR", True)
            return number
    raise AssertionError("the disk is not full after the last request")


async def append_until_accepted(client: httpx2.AsyncClient, topic: str, number: int) -> int:
    """Repeat an append until it is accepted, and return the offset."""
    answer = await until(lambda: append(client, topic, number), lambda found: found.status_code == 201)
    offset: int = answer.json()["offsets"][0]["offset"]
    return offset


async def test_a_full_disk_refuses_appends_and_writing_resumes_when_there_is_space(
    small_disk: Disk, tmp_path: Path
) -> None:
    url = f"sqlite:///{small_disk.path / 'millrace.db'}"
    settings = {"ballast_bytes": small_disk.ballast_bytes, "retention_interval_ms": 100}
    node = ServerProcess(url, tmp_path, settings=settings)
    with node:
        async with node.client() as client:
            for topic in ("kept", "trimmed", "dropped"):
                await create_topic(client, topic, 1)
            for number in range(20):
                for topic in ("kept", "trimmed"):
                    assert (await append(client, topic, number)).status_code == 201
            filled = await fill(client, "dropped")
            assert filled > 20

            # On the full disk reads and deletes work, and appends to every topic are refused.
            assert (await append(client, "kept", 20)).status_code == 507
            assert (await client.get("/readyz")).status_code == 200
            assert "millrace_disk_full 1.0" in (await client.get("/metrics")).text
            assert len(await read_partition(client, "dropped", 0)) == filled
            trim = {"before_offset": 15}
            trimmed = await client.delete("/v1/topics/trimmed/partitions/0/records", params=trim)
            assert trimmed.json() == {"log_start_offset": 15}
            assert (await client.delete("/v1/topics/dropped")).status_code == 204

            assert await append_until_accepted(client, "kept", 20) == 20
            assert "millrace_disk_full 0.0" in (await client.get("/metrics")).text
            assert (small_disk.path / "millrace.db.ballast").stat().st_size == small_disk.kept_ballast_bytes

            # A second time, which needs the ballast again, and a kill on the full disk.
            await create_topic(client, "dropped", 1)
            again = await fill(client, "dropped")
            assert again > 20
        await asyncio.to_thread(node.kill)
        node.start()
        async with node.client() as client:
            assert [record["offset"] for record in await read_partition(client, "dropped", 0)] == [*range(again)]
            assert [record["offset"] for record in await read_partition(client, "trimmed", 0)] == [*range(15, 20)]
            assert (await client.delete("/v1/topics/dropped")).status_code == 204
            assert await append_until_accepted(client, "kept", 21) == 21
            kept = await read_partition(client, "kept", 0)
    assert len(kept) == 22
    assert "Traceback" not in node.log


def occupy(disk: Path) -> Path:
    """Fill the disk with the file of another program."""
    other = disk / "other"
    with other.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return other


async def test_a_server_starts_on_a_disk_that_others_have_filled_or_names_the_missing_bytes(
    small_disk: Disk, tmp_path: Path
) -> None:
    url = f"sqlite:///{small_disk.path / 'millrace.db'}"
    settings = {"ballast_bytes": small_disk.ballast_bytes, "retention_interval_ms": 100}
    node = ServerProcess(url, tmp_path, settings=settings)
    with node:
        async with node.client() as client:
            await create_topic(client, "dropped", 1)
            filled = await fill(client, "dropped")
        await asyncio.to_thread(node.kill)
        other = occupy(small_disk.path)

        node.start()
        async with node.client() as client:
            assert len(await read_partition(client, "dropped", 0)) >= filled
            assert (await append(client, "dropped", filled)).status_code == 507
            assert "millrace_disk_full 1.0" in (await client.get("/metrics")).text
            trim = {"before_offset": 2}
            trimmed = await client.delete("/v1/topics/dropped/partitions/0/records", params=trim)
            assert trimmed.status_code in {200, 507}, "the log may have no room that is allocated"
        await asyncio.to_thread(node.kill)

        # Without the index of the log, SQLite needs space to read the log.
        (small_disk.path / "millrace.db-shm").unlink()
        occupy(small_disk.path)
        with pytest.raises(StartFailed, match=r"SQLite needs \d+ bytes more to read the write-ahead log") as refusal:
            node.start()
        assert "Traceback" not in str(refusal.value)
        missing = int(str(refusal.value).partition("SQLite needs ")[2].split()[0])
        os.truncate(other, other.stat().st_size - missing)
        node.start()
        async with node.client() as client:
            assert len(await read_partition(client, "dropped", 0)) >= filled - 2


@pytest.mark.parametrize("small_disk", [(40 * MIB, 16 * MIB, 5 * MIB)], indirect=True, ids=["40 MiB"])
async def test_appends_resume_on_a_small_disk_once_the_missing_bytes_are_free(small_disk: Disk, tmp_path: Path) -> None:
    settings = {"ballast_bytes": small_disk.ballast_bytes}
    other = small_disk.path / "other"
    other.write_bytes(bytes(16 * MIB))
    with ServerProcess(f"sqlite:///{small_disk.path / 'millrace.db'}", tmp_path, settings=settings) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            filled = await fill(client, "orders")
            missing = (await append(client, "orders", filled)).json()["missing_bytes"]
            assert missing <= 9 * MIB

            os.truncate(other, 16 * MIB - missing)
            assert await append_until_accepted(client, "orders", filled) == filled


async def test_a_limit_of_the_size_of_files_refuses_appends_as_a_full_disk_does(tmp_path: Path) -> None:
    limited = ("/bin/sh", "-c", 'ulimit -f 4096; exec "$@"', "sh", *PROGRAM)
    url = f"sqlite:///{tmp_path / 'millrace.db'}"
    with ServerProcess(url, tmp_path, program=limited, settings={"ballast_bytes": 65_536}) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            filled = 0
            while (answer := await append(client, "orders", filled)).status_code == 201:
                filled += 1
            assert (answer.status_code, answer.json()["code"]) == (507, "KAFKA_STORAGE_ERROR")
            assert filled > 5
            assert len(await read_partition(client, "orders", 0)) == filled
    assert "Traceback" not in node.log

    with ServerProcess(url, tmp_path) as unlimited:
        async with unlimited.client() as client:
            assert len(await read_partition(client, "orders", 0)) == filled
            assert (await append(client, "orders", filled)).status_code == 201
