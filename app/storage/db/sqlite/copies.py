"""Copies of an SQLite database: whole files, made by SQLite's online backup in one read transaction."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

from app.storage.db.sqlite.reader import open_reader

_EXISTS = (
    "exists, and is not overwritten: choose another name, or move it away with its -wal and -shm, with no server on it"
)
_PAGES_AT_ONCE = 2_048
_SIDE_FILES = ("-wal", "-shm", "-journal")


class FileExists(Exception):
    """A file that would be overwritten exists."""


def copy_database(source: Path, target: Path, suffix: str, progress: Callable[[int, int], object] = max) -> None:
    """Copy a database, also one that a server uses, to a file that does not exist.

    The copy is written to another name, flushed, and gets its name at the end. It has no write-ahead log.

    Args:
        source: The file to read.
        target: The file to create.
        suffix: Ends the name of the unfinished copy.
        progress: Called with the number of pages left, and of all pages.

    Raises:
        ValueError: The source cannot be read, or the target cannot be written, for example on a full disk.
        FileExists: The target, or a write-ahead log with its name, exists.
        DatabaseOpened: See `open_reader`.
    """
    refuse_existing(target)
    unfinished = target.with_name(f"{target.name}.{token_hex(4)}{suffix}")  # another copy may run to the same target
    try:
        with open_reader(source) as reader:
            _copy(reader, unfinished, progress)
        _flush(unfinished)
        _rename(unfinished, target)
        _flush(target.parent)
    except OSError as error:
        raise ValueError(f"cannot write {target}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise ValueError(f"cannot copy {source} to {unfinished}: {error}") from None
    finally:
        _remove(unfinished)


def refuse_existing(target: Path) -> None:
    """Refuse a target that exists, or beside which there is a log that SQLite would apply to it.

    Raises:
        FileExists: With its path.
    """
    for path in (target, *(target.with_name(target.name + suffix) for suffix in _SIDE_FILES)):
        if path.exists() or path.is_symlink():
            raise FileExists(f"{path} {_EXISTS}")


def _copy(reader: sqlite3.Connection, unfinished: Path, progress: Callable[[int, int], object]) -> None:
    # SQLite alone would let every user of the machine read the copy.
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        copy = sqlite3.connect(unfinished, isolation_level=None)
    except sqlite3.Error as error:
        raise ValueError(f"cannot write {unfinished}: {error}; its folder must exist and be writable") from None
    with contextlib.closing(copy):
        copy.execute("PRAGMA synchronous = OFF").close()  # the whole file is flushed at the end
        reader.backup(copy, pages=_PAGES_AT_ONCE, progress=lambda _, left, pages: progress(left, pages))
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(unfinished: Path, target: Path) -> None:
    """Give a file its name, unless another file has it by now."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        raise FileExists(f"{target} {_EXISTS}") from None
    except OSError:  # a file system without hard links
        refuse_existing(target)
        unfinished.rename(target)
    else:
        unfinished.unlink()


def _remove(unfinished: Path) -> None:
    for path in (unfinished, *(unfinished.with_name(unfinished.name + suffix) for suffix in _SIDE_FILES)):
        path.unlink(missing_ok=True)
