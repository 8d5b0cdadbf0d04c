"""Output of commands: data on standard output (JSON lines), messages on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

import typer

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def stdout_is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def emit(data: bytes) -> None:
    """Write to standard output and flush it.

    Raises:
        Exit: The reader has closed the pipe, as `head` does; the exit code is 0.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        discard_stdout()
        raise typer.Exit from None


def discard_stdout() -> None:
    """Redirect standard output to /dev/null, so that the flush at exit does not fail on a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_json(value: object) -> None:
    """Write a value as one line of JSON."""
    emit(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def confirm(question: str, *, yes: bool) -> None:
    """Request confirmation of an action that cannot be undone.

    Args:
        question: The prompt.
        yes: Whether the user has confirmed already.

    Raises:
        BadParameter: Standard input is not a terminal.
        Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask; add --yes", param_hint="--yes")
    typer.confirm(question, abort=True, err=True)


def print_message(message: str) -> None:
    """Print a message on standard error."""
    sys.stderr.write(f"millrace: {message}\n")  # one write: several threads print messages
    sys.stderr.flush()


def print_warnings(answer: dict[str, Any]) -> None:
    """Print the warnings of an answer, and remove them from it."""
    for warning in answer.pop("warnings", []):
        print_message(f"warning: {printable(warning['detail'])}")


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, such as `1 record` or `2 records`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Escape control characters as JSON does, so that the text cannot send commands to a terminal."""
    return _CONTROL_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
