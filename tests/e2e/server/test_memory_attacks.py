"""Attacks on the memory of a server, with few connections; `make attacks` runs all of them with many."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.attacks.__main__ import attack, faults_of

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the memory of a process is read in /proc"
)


@pytest.mark.parametrize(
    ("name", "connections"),
    [
        ("gzip_records", 30),
        ("unfinished_uploads", 30),
        ("unread_pages", 30),
        ("polls", 10),
        ("joins", 200),
        ("mix", 192),
    ],
)
def test_the_memory_stays_within_the_budget_and_a_client_beside_the_attack_gets_2xx(
    name: str, connections: int
) -> None:
    result = attack(name, connections, seconds=1.0, alone_s=0.1)

    assert result.requests > 0
    assert faults_of(name, result) == []
