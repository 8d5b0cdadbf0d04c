"""The default of the memory budget: what the machine or its cgroup allows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

_MAX_BUDGET_BYTES = 512 * 1024 * 1024
_MIN_BUDGET_BYTES = 16 * 1024 * 1024
_ROOT = Path("/")


def default_budget_bytes(root: Path = _ROOT) -> int:
    """Return the smaller of 512 MiB and half the memory of the cgroup, at least 16 MiB.

    Args:
        root: Where `proc` and `sys` are.
    """
    half = min(_limits(root), default=2 * _MAX_BUDGET_BYTES) // 2
    return max(_MIN_BUDGET_BYTES, min(_MAX_BUDGET_BYTES, half))


def _limits(root: Path) -> list[int]:
    """Return the memory limits of the cgroup and of those around it, and the memory of the machine."""
    limits = []
    with contextlib.suppress(ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _limit_files(root):
        with contextlib.suppress(ValueError, OSError):  # `max` is no limit
            limits.append(int(file.read_text()))
    return limits


def _limit_files(root: Path) -> list[Path]:
    """Return the files of cgroup 2 and cgroup 1 that may have a limit."""
    files = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        files += [top / each / name for each in (path, *path.parents)]
    return files
