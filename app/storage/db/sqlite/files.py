"""The files of an SQLite database: which of them a server may open, and whether they are still in place."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import sys
from contextlib import suppress
from pathlib import Path

from app.errors.database import DatabaseMisplaced
from app.storage.db.faults import MISPLACED

_HEADER = b"SQLite format 3\0"

_REPLACED_SUFFIX = "-wal.replaced"
"""The log of a replaced database. No other suffix is longer."""

_Identity = tuple[int, int]
"""Device and inode."""


class DatabaseInUse(Exception):
    """Another process has opened the database file."""


class DatabaseFiles:
    """The files of one SQLite database, locked against other processes.

    The descriptor of the database is opened before SQLite opens the file and closed after SQLite has closed it: closing
    any descriptor of a file drops the locks that SQLite holds in this process.

    Args:
        database: The path in the URL.

    Raises:
        ValueError: The path has no file that can be used, and the message says what to do.
        DatabaseInUse: Another process has opened the file.
    """

    def __init__(self, database: str) -> None:
        self._given = Path(database).absolute()
        self.path = _resolve(self._given)
        _refuse_long_name(self.path)
        _refuse_shared_or_special(self.path)
        self._lock_path = self._beside(".lock")
        self._lock = self._open_lock()
        self._descriptor = -1
        try:
            self._refuse_lost_database()
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._refuse_mounted_file()
            self._locked = self._lock_database()
            self._refuse_foreign_header()
        except OSError as error:
            self.close()
            raise ValueError(
                f"cannot open the database file {self.path}: {error.strerror}; the server must read and write it"
            ) from None
        except BaseException:
            self.close()
            raise
        self._identity = _identity(self.path)
        self._logs: dict[Path, _Identity | None] = {}

    def watch_logs(self) -> None:
        """Watch the write-ahead log and its index too, from now on. SQLite keeps both while a connection is open."""
        self._logs = {path: _identity(path) for path in (self._beside("-wal"), self._beside("-shm"))}

    def refuse_other_database(self) -> None:
        """Refuse to open a connection to a path that has no file, or another file than at the start.

        Raises:
            DatabaseMisplaced: The file was moved, deleted or replaced.
        """
        if _identity(self.path) != self._identity:
            raise DatabaseMisplaced(MISPLACED)

    def misplaced(self) -> str | None:
        """Return which file was moved, deleted or replaced, and what to do. None if all files are in place."""
        if any(_identity(path) != self._identity for path in (self.path, self._given)):
            return self._describe_database()
        if _size_bytes(self.path) == 0:
            return (
                f"the database file {self.path} was emptied; writes are refused: stop the server and restore a backup"
            )
        for path, identity in self._logs.items():
            if _identity(path) != identity:
                return (
                    f"{path} was moved, deleted or replaced; writes are refused, because they would be lost: "
                    f"restart the server, which writes what it holds to {self.path.name}"
                )
        return self._keep_lock()

    def set_log_aside(self) -> bool:
        """Prepare the write-ahead log for the state that `misplaced` found. Return whether to write it to the database.

        The log of a deleted database is kept. If another file took the database's place, the log is renamed: SQLite
        would apply it to that file at the next start.
        """
        if os.fstat(self._descriptor).st_nlink > 0:
            return True
        log = self._beside("-wal")
        if _identity(self.path) is not None and _identity(log) == self._logs.get(log):
            with suppress(OSError):
                log.rename(self._beside(_REPLACED_SUFFIX))
        return False

    def close(self) -> None:
        """Release the locks, after SQLite has closed the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        os.close(self._lock)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _describe_database(self) -> str:
        if os.fstat(self._descriptor).st_nlink == 0:
            return (
                f"the database file {self._given} was deleted or replaced; writes are refused and reads go on: before "
                'you stop the server, save the log as "When the file was moved or deleted" in docs/operations.md says'
            )
        return (
            f"the database file {self._given} was moved; writes are refused, because the next start would not find "
            "them: move the file back and they resume, or restart the server with --database-url of the new place"
        )

    def _describe_folder(self, error: OSError) -> str:
        """Return why the folder of the database takes no file, and what to do."""
        folder = self.path.parent
        if isinstance(error, FileNotFoundError):
            return (
                f"the folder {folder} of the database file {self.path} does not exist; create it with "
                f"mkdir -p {shlex.quote(str(folder))}, or correct the path in the database URL"
            )
        if isinstance(error, NotADirectoryError):
            return f"{folder} is not a folder; correct the path of the database file {self.path}"
        if isinstance(error, PermissionError):
            return (
                f"the server may not write to the folder {folder} of the database file {self.path}; let its user write "
                "there, or choose another folder"
            )
        return f"cannot write beside the database file {self.path}: {error.strerror}"

    def _open_lock(self) -> int:
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ValueError(self._describe_folder(error)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise self._in_use() from None
        except OSError as error:
            os.close(descriptor)
            raise ValueError(
                f"cannot lock {self._lock_path}: {error.strerror}; put the database on a file system that has locks, "
                "such as a local one, or use PostgreSQL"
            ) from None
        return descriptor

    def _lock_database(self) -> bool:
        """Lock the database file itself, so that removal of the lock file lets no second process in.

        Only Linux keeps this lock apart from the locks of SQLite. Return whether the file is locked.
        """
        if sys.platform != "linux":
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use() from None
        except OSError:
            return False
        return True

    def _in_use(self) -> DatabaseInUse:
        return DatabaseInUse(
            f"another millrace process has {self.path} open; stop it, give this one another file with "
            "--database-url sqlite:///other.db, or use PostgreSQL for several nodes"
        )

    def _keep_lock(self) -> str | None:
        """Create and lock the lock file again if it was deleted or replaced."""
        held = os.fstat(self._lock)
        if _identity(self._lock_path) == (held.st_dev, held.st_ino):
            return None
        try:
            descriptor = self._open_lock()
        except (ValueError, DatabaseInUse):
            if self._locked:
                return None
            return (
                f"the lock file {self._lock_path} was deleted or replaced, and another process may have opened "
                f"{self.path}; writes are refused: stop the other process"
            )
        self._lock, old = descriptor, self._lock
        os.close(old)
        return None

    def _refuse_lost_database(self) -> None:
        log = self._beside("-wal")
        if _size_bytes(self.path) == 0 and (size_bytes := _size_bytes(log)):
            raise ValueError(
                f"{log} has {size_bytes} bytes of records, and its database {self.path} is missing or empty; put the "
                f"database file back beside it, or move {log.name} away to start with an empty log"
            )

    def _refuse_mounted_file(self) -> None:
        """Refuse a file that is mounted without its folder: its write-ahead log would be in another file system."""
        mount = _mount_of(self._descriptor)
        if mount is not None and mount != _mount_of(self._lock):
            raise ValueError(
                f"{self.path} is mounted without its folder, so that the write-ahead log with the newest records would "
                f"stay outside of the mount; mount the folder {self.path.parent} instead"
            )

    def _refuse_foreign_header(self) -> None:
        header = os.pread(self._descriptor, len(_HEADER), 0)
        if header and header != _HEADER:
            raise ValueError(f"{self.path} is not an SQLite database; give another file with --database-url")


def _resolve(path: Path) -> Path:
    try:
        path.resolve(strict=True)
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError) as error:  # before Python 3.13, a loop of links is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else "its links lead back to it"
        raise ValueError(f"cannot open the database file {path}: {reason}") from None
    return path.resolve()


def _refuse_long_name(path: Path) -> None:
    """Refuse a name to which the suffixes of the other files cannot be added."""
    try:
        longest = os.pathconf(path.parent, "PC_NAME_MAX") - len(_REPLACED_SUFFIX)
    except (OSError, ValueError):
        return
    if len(os.fsencode(path.name)) > longest:
        raise ValueError(f"the name of the database file {path} is too long: use at most {longest} bytes")


def _mount_of(descriptor: int) -> bytes | None:
    """Return the id of the mount of an open file. None if the system does not tell it."""
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().splitlines()
    except OSError:
        return None
    return next((line for line in lines if line.startswith(b"mnt_id:")), None)


def _refuse_shared_or_special(path: Path) -> None:
    try:
        found = path.stat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a file; give the path of a file, as sqlite:///folder/millrace.db")
    if found.st_nlink > 1:
        raise ValueError(
            f"{path} has {found.st_nlink} names (hard links), and SQLite would keep a write-ahead log for each, which "
            "destroys the database; remove the other names, or copy the file and open the copy"
        )


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
