"""How a command fails: one sentence on standard error, and an exit code."""

from __future__ import annotations

ERROR = 1
NOT_FOUND = 3
REFUSED = 4
UNAVAILABLE = 5
INTERRUPTED = 130


class CommandFailed(Exception):
    """A command cannot go on.

    Args:
        sentence: What happened, and what to do.
        exit_code: One of this module's codes.
        hint: More of what to do, told only when the command ends by this.
    """

    def __init__(self, sentence: str, exit_code: int = ERROR, hint: str = "") -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.hint = hint
