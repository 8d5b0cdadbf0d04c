"""Tables on a terminal: they fit its width without splitting words, or each row becomes a block of lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from app.cli.terminal.output import emit_json, print_message, printable, stdout_is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")
_GAP = 2


def emit_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Write a table; without rows, print the message `empty`."""
    if found := list(rows):
        emit_table(columns, found)
    else:
        print_message(empty)


def emit_items(
    items: Iterable[T],
    columns: Sequence[str],
    row: Callable[[T], Sequence[object]],
    empty: str,
    *,
    as_json: bool,
) -> None:
    """Write the items of a list: on a terminal a table, else, or with `as_json`, a line of JSON for each."""
    if stdout_is_terminal() and not as_json:
        emit_rows(columns, map(row, items), empty)
        return
    for item in items:
        emit_json(item)


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; columns of integers are aligned right.

    Long headers are split after underscores, and long cells after spaces. A table that does not fit even then is
    written as one block for each row, with a line for each column.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = [list(row) for row in rows]
    numeric = [_is_numeric([row[index] for row in found]) for index in range(len(columns))]
    texts = [[_shown(cell, is_numeric=each) for cell, each in zip(row, numeric, strict=True)] for row in found]
    console = Console()
    widths = _fitting_widths(columns, texts, console.width)
    if widths is None:
        _emit_blocks(columns, texts)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for name, width, is_numeric in zip(columns, widths, numeric, strict=True):
        header = "\n".join(_header_lines(name, width))
        table.add_column(header, justify="right" if is_numeric else "left", min_width=width, max_width=width)
    for row in texts:
        table.add_row(*map(Text, row))
    console.print(table)


def _fitting_widths(columns: Sequence[str], rows: Sequence[Sequence[str]], terminal_width: int) -> list[int] | None:
    """Return the width of each column, or None if the table does not fit."""
    cells = [[row[index] for row in rows] for index in range(len(columns))]
    widths = [max(_lengths([name, *column])) for name, column in zip(columns, cells, strict=True)]
    least = [
        max(_lengths([*_parts(name), *(word for cell in column for word in cell.split())]))
        for name, column in zip(columns, cells, strict=True)
    ]
    excess = sum(widths) + _GAP * (len(columns) - 1) - terminal_width
    while excess > 0:
        index = max(range(len(widths)), key=lambda each: (widths[each] > least[each], widths[each]))
        if widths[index] <= least[index]:
            return None
        widths[index] -= 1
        excess -= 1
    return widths


def _lengths(texts: Iterable[str]) -> list[int]:
    return [len(line) for text in texts for line in text.split("\n")] or [0]


def _parts(name: str) -> list[str]:
    """Return the parts of a header, each but the last with its underscore."""
    *parts, last = name.split("_")
    return [f"{part}_" for part in parts] + [last]


def _header_lines(name: str, width: int) -> list[str]:
    lines = [""]
    for part in _parts(name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _emit_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, columns)) + _GAP
    blocks = (
        "".join(f"{name:{width}}{cell}\n" for name, cell in zip(columns, row, strict=True) if cell) for row in rows
    )
    print("\n".join(blocks), end="")


def _is_numeric(column: Sequence[object]) -> bool:
    """Return whether a column has integers, and nothing else but empty cells."""
    numbers = [isinstance(cell, int) and not isinstance(cell, bool) for cell in column]
    return any(numbers) and all(
        is_number or cell in (None, "", "-") for is_number, cell in zip(numbers, column, strict=True)
    )


def _shown(cell: object, *, is_numeric: bool) -> str:
    """Return the text of a cell: null is a dash, and booleans are written as in JSON."""
    if cell is None:
        return "-"
    if is_numeric and isinstance(cell, int):
        return f"{cell:,}"
    return str(cell).lower() if isinstance(cell, bool) else printable(str(cell))
