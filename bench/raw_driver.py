"""The raw baseline: the same rows through the database driver alone, one connection, one thread, no HTTP."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Protocol

import msgspec
import psycopg

from app.storage.db.tables import OFFSET_BITS
from bench.workload import PARTITIONS, batches

_COLUMNS = "record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms"
_TYPES = ("int8", "int8", "int2", "bytea", "bytea", "bytea", "int8", "int8")
_NOW_MS = 1_517_363_399_650
_FIRST_PARTITION_ID = 1_000
_ENCODING_JSON = 0

RecordRow = tuple[int, int, int, bytes, bytes, None, int, int]
"""A row of `records` in the order of its columns."""

_Insert = Callable[[Sequence[RecordRow]], None]


class RowMaker:
    """Builds rows of `records` as an append does: dense offsets, cumulative sizes and times of each partition."""

    def __init__(self, partition_ids: Sequence[int]) -> None:
        self._ids = [partition_id << OFFSET_BITS for partition_id in partition_ids]
        self._offsets = [0] * len(partition_ids)
        self._sizes = [0] * len(partition_ids)
        self._batches = cycle(batches())

    def batch(self) -> list[RecordRow]:
        """Return the rows of the next batch, in the order of the request."""
        rows: list[RecordRow] = []
        for key, value, partition in next(self._batches):
            offset, size = self._offsets[partition], self._sizes[partition]
            rows.append((self._ids[partition] + offset, _NOW_MS, _ENCODING_JSON, key, value, None, size, _NOW_MS))
            self._offsets[partition] = offset + 1
            self._sizes[partition] = size + len(key) + len(value)
        return rows


def _timed(insert: _Insert, rows: RowMaker, seconds: float) -> float:
    """Insert batch after batch and return rows per second, without the time to build the rows."""
    spent = inserted = 0.0
    while spent < seconds:
        batch = rows.batch()
        began = time.perf_counter()
        insert(batch)
        spent += time.perf_counter() - began
        inserted += len(batch)
    return inserted / spent


class Raw(Protocol):
    """The raw baseline on one kind of database.

    Attributes:
        method: Description of the insert.
    """

    method: str

    def insert(self, seconds: float) -> float:
        """Insert one batch a transaction and return rows per second."""

    def fetch(self, page_starts: Sequence[tuple[int, int]], seconds: float) -> float:
        """Select and encode one page a transaction and return rows per second."""

    def page(self, page_start: tuple[int, int]) -> bytes:
        """Return one page as the JSON of a fetch answer."""

    def close(self) -> None:
        """Close its connections."""


def open_raw(scratch_url: str, log_url: str, partition_ids: Sequence[int]) -> Raw:
    """Open the baseline.

    Args:
        scratch_url: A database with empty tables, for inserts.
        log_url: The database of the measured server, for fetches.
        partition_ids: The ids of the topic's partitions in that database.
    """
    if scratch_url.startswith("sqlite"):
        return RawSqlite(scratch_url, log_url, partition_ids)
    return RawPostgres(scratch_url, log_url, partition_ids)


def sqlite_path(url: str) -> Path:
    """Return the file of an SQLite URL."""
    return Path(url.removeprefix("sqlite:///"))


class RawSqlite:
    """executemany, one commit a batch, with the pragmas of Millrace's connections."""

    method = "sqlite3 executemany, WAL, synchronous=FULL"

    def __init__(self, scratch_url: str, log_url: str, partition_ids: Sequence[int]) -> None:
        self._writer = sqlite3.connect(sqlite_path(scratch_url), isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000", "cache_size=-16384"):
            self._writer.execute(f"PRAGMA {pragma}")
        self._reader = sqlite3.connect(f"file:{sqlite_path(log_url)}?mode=ro", uri=True, isolation_level=None)
        self._reader.execute("PRAGMA cache_size=-4096")
        self._rows = RowMaker(_ids())
        self._pages = _Pages(partition_ids)

    def insert(self, seconds: float) -> float:
        """Insert one batch a transaction and return rows per second."""
        return _timed(self._insert, self._rows, seconds)

    def fetch(self, page_starts: Sequence[tuple[int, int]], seconds: float) -> float:
        """Select and encode one page a transaction and return rows per second."""
        return self._pages.timed(self._select, page_starts, seconds)

    def page(self, page_start: tuple[int, int]) -> bytes:
        """Return one page as the JSON of a fetch answer."""
        return self._pages.encode(page_start, self._select)

    def close(self) -> None:
        """Close its connections."""
        self._writer.close()
        self._reader.close()

    def _insert(self, rows: Sequence[RecordRow]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.executemany(f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._writer.execute("COMMIT")

    def _select(self, low: int, high: int) -> list[_Row]:
        return self._reader.execute(_SELECT.replace("%s", "?"), (low, high)).fetchall()


class RawPostgres:
    """COPY, binary COPY or unnest, one commit a batch: the fastest of the three, tried before the first round."""

    def __init__(self, scratch_url: str, log_url: str, partition_ids: Sequence[int]) -> None:
        self._writer = psycopg.connect(scratch_url)
        self._reader = psycopg.connect(log_url, autocommit=True)
        self._rows = RowMaker(_ids())
        self._pages = _Pages(partition_ids)
        inserts = {"COPY": self._copy, "COPY binary": self._copy_binary, "unnest": self._unnest}
        rates = {name: _timed(insert, self._rows, 0.7) for name, insert in inserts.items()}
        best = max(rates, key=lambda name: rates[name])
        self._insert = inserts[best]
        tried = ", ".join(f"{name} {rate / 1000:.0f} k/s" for name, rate in rates.items())
        self.method = f"psycopg {best} (tried {tried})"

    def insert(self, seconds: float) -> float:
        """Insert one batch a transaction and return rows per second."""
        return _timed(self._insert, self._rows, seconds)

    def fetch(self, page_starts: Sequence[tuple[int, int]], seconds: float) -> float:
        """Select and encode one page a transaction and return rows per second."""
        return self._pages.timed(self._select, page_starts, seconds)

    def page(self, page_start: tuple[int, int]) -> bytes:
        """Return one page as the JSON of a fetch answer."""
        return self._pages.encode(page_start, self._select)

    def close(self) -> None:
        """Close its connections."""
        self._writer.close()
        self._reader.close()

    def _copy(self, rows: Sequence[RecordRow]) -> None:
        with self._writer.cursor().copy(f"COPY records ({_COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        self._writer.commit()

    def _copy_binary(self, rows: Sequence[RecordRow]) -> None:
        with self._writer.cursor().copy(f"COPY records ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)
        self._writer.commit()

    def _unnest(self, rows: Sequence[RecordRow]) -> None:
        arrays = ", ".join(f"%b::{name}[]" for name in _TYPES)
        columns = [list(column) for column in zip(*rows, strict=True)]
        self._writer.execute(f"INSERT INTO records ({_COLUMNS}) SELECT * FROM unnest({arrays})".encode(), columns)
        self._writer.commit()

    def _select(self, low: int, high: int) -> list[_Row]:
        return self._reader.execute(_SELECT.encode(), (low, high), binary=True).fetchall()


_Row = tuple[int, int, bytes, bytes]
_SELECT = (
    "SELECT record_id, timestamp_ms, key, value FROM records"
    " WHERE record_id >= %s AND record_id < %s ORDER BY record_id"
)


class _Record(msgspec.Struct, gc=False):
    partition: int
    offset: int
    timestamp_ms: int
    key: str
    value: msgspec.Raw


class _Page(msgspec.Struct):
    records: list[_Record]


class _Pages:
    """Encodes selected rows as the JSON of a page."""

    def __init__(self, partition_ids: Sequence[int]) -> None:
        self._partition_ids = partition_ids
        self._encode = msgspec.json.Encoder().encode

    def encode(self, page_start: tuple[int, int], select: Callable[[int, int], list[_Row]]) -> bytes:
        """Select and encode the 500 rows from a partition and offset."""
        partition, offset = page_start
        base = self._partition_ids[partition] << OFFSET_BITS
        records = [
            _Record(partition, record_id - base, timestamp_ms, key.decode(), msgspec.Raw(value))
            for record_id, timestamp_ms, key, value in select(base + offset, base + offset + 500)
        ]
        return self._encode(_Page(records))

    def timed(
        self, select: Callable[[int, int], list[_Row]], page_starts: Sequence[tuple[int, int]], seconds: float
    ) -> float:
        """Encode page after page and return rows per second."""
        starts = cycle(page_starts)
        pages = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            self.encode(next(starts), select)
            pages += 1
        return pages * 500 / spent


def _ids() -> list[int]:
    return list(range(_FIRST_PARTITION_ID, _FIRST_PARTITION_ID + PARTITIONS))


def fill(url: str, partition_ids: Sequence[int], records: int) -> None:
    """Fill a log through the driver, in large transactions that are durable only at the end."""
    rows = RowMaker(partition_ids)
    if url.startswith("sqlite"):
        _fill_sqlite(sqlite_path(url), rows, records)
    else:
        _fill_postgres(url, rows, records)


def _fill_sqlite(path: Path, rows: RowMaker, records: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    while records > 0:
        connection.execute("BEGIN IMMEDIATE")
        batch = list(chain.from_iterable(rows.batch() for _ in range(40)))
        batch.sort()
        connection.executemany(f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", batch)
        connection.execute("COMMIT")
        records -= len(batch)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _fill_postgres(url: str, rows: RowMaker, records: int) -> None:
    with psycopg.connect(url) as connection:
        with connection.cursor().copy(f"COPY records ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_TYPES)
            while records > 0:
                batch = rows.batch()
                for row in batch:
                    copy.write_row(row)
                records -= len(batch)
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE records")
        connection.execute("CHECKPOINT")
