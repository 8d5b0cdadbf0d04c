"""Secrets of commands, from a file or a variable: an argument would be in the list of processes."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def read_secret_file(path: str) -> str:
    """Return the text of a file, or of standard input for `-`, without the end of its last line.

    Raises:
        BadParameter: The file cannot be read.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read the secret from {path}: {error}") from None
    return text.rstrip("\r\n")
