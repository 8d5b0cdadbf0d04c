"""A process whose wall clock is wrong, by Debian's `faketime`."""

from __future__ import annotations

import shutil
import subprocess

FAKETIME = shutil.which("faketime")


def wrong_clock(offset: str) -> dict[str, object]:
    """Return the variables of a process whose wall clock is wrong; its monotonic clock is right."""
    assert FAKETIME is not None
    library = subprocess.check_output([FAKETIME, "-m", "-f", "+0", "printenv", "LD_PRELOAD"], text=True).strip()
    return {"LD_PRELOAD": library, "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
