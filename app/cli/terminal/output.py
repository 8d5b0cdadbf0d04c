"""Output of commands: data on standard output (tables on a terminal, else JSON lines), messages on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; columns of integers are aligned right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        is_numeric = _is_numeric([row[index] for row in cells])
        if is_numeric:
            for row in cells:
                row[index] = f"{row[index]:,}" if isinstance(row[index], int) else row[index]
        table.add_column(name, justify="right" if is_numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*[Text(_shown(cell)) for cell in row])
    Console().print(table)


def _is_numeric(column: Sequence[object]) -> bool:
    """Return whether a column has integers, and nothing else but empty cells."""
    numbers = [isinstance(cell, int) and not isinstance(cell, bool) for cell in column]
    return any(numbers) and all(
        is_number or cell in (None, "", "-") for is_number, cell in zip(numbers, column, strict=True)
    )


def _shown(cell: object) -> str:
    """Return the text of a cell: null is a dash, and booleans are written as in JSON."""
    if cell is None:
        return "-"
    return str(cell).lower() if isinstance(cell, bool) else printable(str(cell))


def emit_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Write a table; without rows, print the message `empty`."""
    if found := list(rows):
        emit_table(columns, found)
    else:
        print_message(empty)


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
