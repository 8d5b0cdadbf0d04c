"""Failures of a command: one sentence on standard error, and an exit code."""

from __future__ import annotations

ERROR = 1
NOT_FOUND = 3
REFUSED = 4
UNAVAILABLE = 5
INTERRUPTED = 130


class CommandFailed(Exception):
    """A command cannot continue.

    Args:
        message: What failed, and what to do.
        exit_code: One of this module's codes.
        hint: More advice, printed only when this failure ends the command.
    """

    def __init__(self, message: str, exit_code: int = ERROR, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint
