"""The limit of open files of the process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from app.server.open_files import raise_limit

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
raise_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=30, check=True)

    assert done.stdout == b"128 128\n"
