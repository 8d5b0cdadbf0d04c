"""The machine and the versions of the software with which the figures were measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg

_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "starlette", "msgspec", "sqlalchemy", "psycopg")
_SYNCS = 300


def describe(postgres_url: str | None) -> list[tuple[str, str]]:
    """Return facts about the machine and the software, as name and text."""
    facts = [
        ("Date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("CPU", f"{os.cpu_count()} × {_cpu_model()}"),
        ("Memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Load before", " ".join(f"{each:.2f}" for each in os.getloadavg())),
        ("fsync of 4 KiB", _fsync()),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", sqlite3.sqlite_version),
    ]
    if postgres_url is not None:
        facts.append(("PostgreSQL", _postgres_version(postgres_url)))
    facts += [(name, version(name)) for name in _PACKAGES]
    return facts


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _fsync() -> str:
    took: list[float] = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return f"median {statistics.median(took):.2f} ms, 99 % {took[_SYNCS * 99 // 100]:.2f} ms (appending to one file)"


def _postgres_version(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else "unknown"
