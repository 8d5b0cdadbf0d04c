"""What commands print: data on standard output (tables on a terminal, else JSON lines), words on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def to_terminal() -> bool:
    """Return whether people read standard output."""
    return sys.stdout.isatty()


def emit(data: bytes) -> None:
    """Write to standard output, at once.

    Raises:
        Exit: Nobody reads any more, which is no error: `… | head`.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def emit_json(value: object) -> None:
    """Write a value as one line."""
    emit(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; columns of integers are aligned right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[number], int) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*[Text(f"{cell:,}" if isinstance(cell, int) else printable(str(cell))) for cell in row])
    Console().print(table)


def emit_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Write a table, or say that there is nothing to show."""
    if found := list(rows):
        emit_table(columns, found)
    else:
        tell(empty)


def ask(question: str, *, yes: bool) -> None:
    """Ask before something is done that cannot be undone.

    Raises:
        BadParameter: There is nobody to ask.
        Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask; add --yes", param_hint="--yes")
    typer.confirm(question, abort=True, err=True)


def tell(sentence: str) -> None:
    """Say something to people, on standard error."""
    sys.stderr.write(f"millrace: {sentence}\n")  # at once: several threads tell
    sys.stderr.flush()


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, such as `1 record`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: control characters as JSON would escape them."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
