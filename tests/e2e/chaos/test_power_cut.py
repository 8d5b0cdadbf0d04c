"""The power fails while SQLite writes: the write-ahead log is cut at every frame and at random bytes.

What is recovered is a prefix of the order of the commits, and has each record that was acknowledged before the cut.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import pytest

from app.storage.db.opening import open_storage
from tests.storage.scribe import Scribe

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
REQUESTS = [20, pytest.param(400 if LONG else 60, marks=pytest.mark.slow)]
HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096
RANDOM_CUTS = 50
FLIPPED_BITS = 50
VALUES = "SELECT CAST(value AS TEXT) FROM records ORDER BY record_id"


class Acknowledged(NamedTuple):
    """How many records were acknowledged when the log had a size."""

    log_bytes: int
    records: int


class Image:
    """A database file and its write-ahead log, as a power cut leaves them."""

    def __init__(self, source: Path, directory: Path) -> None:
        self.database = (source / "millrace.db").read_bytes()
        self.log = (source / "millrace.db-wal").read_bytes()
        self._directory = directory
        directory.mkdir()

    def restore(self, log: bytes) -> Path:
        """Write the files with another log, and without its index, and return the path of the database."""
        path = self._directory / "millrace.db"
        path.write_bytes(self.database)
        path.with_name("millrace.db-wal").write_bytes(log)
        path.with_name("millrace.db-shm").unlink(missing_ok=True)
        return path

    def values(self, log: bytes) -> list[str]:
        """Recover, check the file, and return the values of all records."""
        connection = sqlite3.connect(self.restore(log))
        try:
            assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
            return [value for (value,) in connection.execute(VALUES)]
        finally:
            connection.close()

    def cuts(self, rng: random.Random) -> list[int]:
        """Return the end of every frame, and some other sizes."""
        return [
            *range(0, HEADER_BYTES + 1, 8),
            *range(HEADER_BYTES, len(self.log) + 1, FRAME_BYTES),
            *(rng.randrange(len(self.log)) for _ in range(RANDOM_CUTS)),
        ]


def size_of(log: Path) -> int:
    return log.stat().st_size


async def append(
    client: httpx2.AsyncClient, log: Path, rng: random.Random, requests: int
) -> tuple[list[str], list[Acknowledged]]:
    """Append requests of several records, and note the size of the log after each answer."""
    values: list[str] = []
    acknowledged = [Acknowledged(size_of(log), 0)]
    for number in range(requests):
        some = [f"{number}.{index}".ljust(rng.choice((10, 3_000)), "x") for index in range(rng.randint(1, 4))]
        records = [{"value": value, "encoding": "text"} for value in some]
        answer = await client.post("/v1/topics/orders/records", json={"records": records})
        assert answer.status_code == 201, answer.text
        values += some
        acknowledged.append(Acknowledged(size_of(log), len(values)))
    return values, acknowledged


@pytest.mark.parametrize("requests", REQUESTS)
async def test_a_log_that_is_cut_anywhere_has_a_prefix_of_the_commits_with_all_that_was_acknowledged(
    serve: Serve, sqlite_url: str, tmp_path: Path, seed: int, requests: int
) -> None:
    rng = random.Random(seed)
    _, client = await serve()
    assert (await client.put("/v1/topics/orders", json={"partitions": 1})).status_code == 201
    values, acknowledged = await append(client, tmp_path / "millrace.db-wal", rng, requests)
    image = Image(tmp_path, tmp_path / "cut")
    ends = {records for _, records in acknowledged}

    def check(size: int) -> None:
        found = image.values(image.log[:size])
        assert found == values[: len(found)]
        assert len(found) in ends, "a request is torn"
        assert len(found) >= max((records for log_bytes, records in acknowledged if log_bytes <= size), default=0)

    cuts = image.cuts(rng)
    for size in cuts:
        await asyncio.to_thread(check, size)
    print(f"{len(cuts)} cuts of a log of {len(image.log) // FRAME_BYTES} frames, {len(values)} records")


async def test_a_server_opens_a_log_that_is_cut_and_appends_after_what_was_recovered(
    serve: Serve, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    _, client = await serve()
    assert (await client.put("/v1/topics/orders", json={"partitions": 1})).status_code == 201
    values, acknowledged = await append(client, tmp_path / "millrace.db-wal", rng, 6)
    image = Image(tmp_path, tmp_path / "cut")
    for log_bytes, records in acknowledged[1:]:
        path = image.restore(image.log[: log_bytes + rng.randrange(FRAME_BYTES)])
        storage = open_storage(f"sqlite:///{path}")
        try:
            scribe = Scribe(storage)
            orders = scribe.find("orders")
            found = scribe.values(orders)
            assert list(found.values())[:records] == [value.encode() for value in values[:records]]
            assert scribe.append_values(orders, b"next") == [len(found)]
        finally:
            storage.close()


async def test_a_flipped_bit_ends_the_log_before_its_frame(serve: Serve, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    _, client = await serve()
    assert (await client.put("/v1/topics/orders", json={"partitions": 1})).status_code == 201
    values, _ = await append(client, tmp_path / "millrace.db-wal", rng, 6)
    image = Image(tmp_path, tmp_path / "cut")
    for _ in range(FLIPPED_BITS):
        log = bytearray(image.log)
        place = rng.randrange(HEADER_BYTES, len(log))
        log[place] ^= 1 << rng.randrange(8)
        found = await asyncio.to_thread(image.values, bytes(log))
        assert found == values[: len(found)]
