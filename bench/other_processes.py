"""CPU time of other processes during a measurement: a ratio measured on a busy machine is unreliable."""

from __future__ import annotations

import os
from pathlib import Path

_STAT = Path("/proc/stat")
_TOLERATED = 0.10


class OtherProcesses:
    """CPU time of processes other than this one and its descendants, since the construction."""

    def __init__(self) -> None:
        self._busy, self._total = _machine_ticks()
        self._own = _own_ticks()

    def share(self) -> float:
        """Return the share of all cores that other processes used, from 0 to 1."""
        busy, total = _machine_ticks()
        others = (busy - self._busy) - (_own_ticks() - self._own)
        return max(0.0, others / max(1, total - self._total))


def note(share: float) -> str:
    """Return the note for the detail of a figure; empty for a small share."""
    return f"; NOISY: others used {share:.0%} of the machine" if share > _TOLERATED else ""


def _machine_ticks() -> tuple[int, int]:
    """Return the busy ticks of all cores, time stolen by the host included, and all ticks."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, _STAT.read_text().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def _own_ticks() -> int:
    """Return the ticks of this process and its descendants, ended ones included."""
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
