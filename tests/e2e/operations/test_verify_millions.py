"""`verify` and `backup` of a million records need a bounded memory."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = 1_000_000
MOST_MEGABYTES = 120
_FILL = f"""
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {RECORDS - 1})
INSERT INTO records (record_id, timestamp_ms, encoding, value, start_bytes, max_timestamp_ms)
SELECT (1 << 42) + n, 1700000000000 + n, 0, zeroblob(200), 200 * n, 1700000000000 + n FROM numbers
"""
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", [["verify"], ["backup", "copy.db"]], ids=lambda command: command[0])
def test_a_million_records_need_a_bounded_memory(sqlite_url: str, tmp_path: Path, command: list[str]) -> None:
    connection = sqlite3.connect(tmp_path / "millrace.db")
    with connection:
        connection.execute("INSERT INTO topics VALUES (1, 'orders', 1, '{}', 1)")
        connection.execute("INSERT INTO partitions VALUES (1, 1, 0, 0, 0, 0)")
        connection.execute(_FILL)
    connection.close()
    program = [sys.executable, "-m", "app.cli", *command, "--database-url", sqlite_url]

    ended = subprocess.run(
        [sys.executable, "-c", _MEASURE, *program], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    *_, said, megabytes = ended.stdout.splitlines()
    assert f"{RECORDS} records" in said
    assert int(megabytes) < MOST_MEGABYTES
