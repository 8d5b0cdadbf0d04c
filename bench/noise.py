"""How much of the machine others used meanwhile: a ratio measured beside strangers is worth little."""

from __future__ import annotations

import os
from pathlib import Path

_STAT = Path("/proc/stat")
_TOLERATED = 0.10


class Others:
    """CPU time of processes that are neither this one nor its descendants, from now on."""

    def __init__(self) -> None:
        self._busy, self._all = _machine()
        self._ours = _ours()

    def share(self) -> float:
        """Return which share of all cores others have used since the start, from 0 to 1."""
        busy, whole = _machine()
        foreign = (busy - self._busy) - (_ours() - self._ours)
        return max(0.0, foreign / max(1, whole - self._all))


def remark(share: float) -> str:
    """Return what to say of a share: nothing if it is small."""
    return f"; NOISY: others used {share:.0%} of the machine" if share > _TOLERATED else ""


def _machine() -> tuple[int, int]:
    """Return ticks that all cores were busy (time that the host took away is busy too), and all ticks."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, _STAT.read_text().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def _ours() -> int:
    """Return ticks of this process and its descendants, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in _STAT.parent.glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))
    return sum(count for pid, count in ticks.items() if _descends(pid, parents))


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = parents.get(pid, 0)
    return False
