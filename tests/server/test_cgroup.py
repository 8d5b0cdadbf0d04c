"""The default of the memory budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.server.cgroup import default_budget_bytes

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("files", "budget"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n"}, 128 * MIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "268435456\n"}, 128 * MIB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "8388608\n"}, 16 * MIB),
        (
            {"proc/self/cgroup": "4:cpu,memory:/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912"},
            256 * MIB,
        ),
    ],
)
def test_the_budget_is_half_the_memory_of_the_cgroup(tmp_path: Path, files: dict[str, str], budget: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert default_budget_bytes(tmp_path) == budget


@pytest.mark.parametrize("files", [{}, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}])
def test_the_budget_without_a_limit_is_at_most_512_mib(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert 16 * MIB <= default_budget_bytes(tmp_path) <= 512 * MIB
