"""Commands run on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

from tests.cli.processes import DEADLINE_S, PROGRAM

if TYPE_CHECKING:
    from tests.cli.processes import Cli


def on_terminal(cli: Cli, *words: str, typed: bytes = b"") -> tuple[int, str]:
    """Run a command with a terminal as its input and output. Return its exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*PROGRAM, *words], cwd=cli.folder, env=cli.environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        while data := _read(ours):
            shown += data
        return process.wait(DEADLINE_S), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # Linux: the other side is closed
        return b""
