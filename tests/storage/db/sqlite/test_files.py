"""Paths, links, mounts and locks of an SQLite database at start."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from app.storage.db.opening import open_storage
from app.storage.db.sqlite.copies import copy_database
from app.storage.db.transaction import Statement
from tests.checkout import ROOT

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").symlink_to(tmp_path / "b.db")
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")

    with pytest.raises(ValueError, match=r"cannot open the database file .*a\.db: "):
        open_storage(f"sqlite:///{tmp_path / 'a.db'}")


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x")

    with pytest.raises(ValueError, match=r"cannot open the database file .*: Not a directory"):
        open_storage(f"sqlite:///{tmp_path / 'notes' / 'millrace.db'}")


@pytest.mark.parametrize("length", [243, 249, 252, 255, 300])
def test_a_name_that_is_too_long_for_the_files_beside_it_is_refused(tmp_path: Path, length: int) -> None:
    before = open_descriptors()

    with pytest.raises(ValueError, match=r"is too long: use at most \d+ bytes|File name too long"):
        open_storage(f"sqlite:///{tmp_path / ('d' * length)}", ballast_bytes=65_536)

    assert open_descriptors() == before


def test_a_path_that_is_too_long_for_sqlite_is_refused_and_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["folder" * 20] * 5)
    folder.mkdir(parents=True)
    before = open_descriptors()

    with pytest.raises(ValueError, match=r"the database .* cannot be used: unable to open database file"):
        open_storage(f"sqlite:///{folder / 'millrace.db'}")

    assert open_descriptors() == before


@pytest.mark.parametrize("path", ["file:millrace.db", "file:/millrace.db", "file:///millrace.db"])
def test_a_file_url_inside_the_url_is_refused_and_no_file_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValueError, match="an SQLite URL has a path without file: after the slashes"):
        open_storage(f"sqlite:///{path}")

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_mounted_without_its_folder_is_refused_and_not_changed(sqlite_url: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file")
    file, target = tmp_path / "millrace.db", tmp_path / "container" / "data.db"
    target.parent.mkdir()
    target.touch()
    before = file.read_bytes()
    mounted = subprocess.run(["mount", "--bind", file, target], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file: {mounted.stderr.strip()}")
    try:
        with pytest.raises(ValueError, match=rf"mounted without its folder.*mount the folder {target.parent} instead"):
            open_storage(f"sqlite:///{target}")
    finally:
        subprocess.run(["umount", str(target)], check=True)

    assert file.read_bytes() == before
    assert not target.with_name("data.db-wal").exists()
    open_storage(sqlite_url).close()


@pytest.mark.parametrize(
    ("read_only", "refusal"),
    [
        ("millrace.db", "Permission denied; the server must read and write it"),
        ("millrace.db-wal", "attempt to write a readonly database; give this user the right to write the file"),
        (".", "attempt to write a readonly database; give this user the right to write the file"),
    ],
    ids=["file", "log", "folder"],
)
def test_a_database_that_cannot_be_written_is_refused_at_start(
    sqlite_template: Path, read_only: str, refusal: str
) -> None:
    program = (
        "import os, sys; from app.storage.db.opening import open_storage\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "try: open_storage(f'sqlite:///{sys.argv[1]}')\n"
        "except ValueError as error: print(error)\n"
    )
    with TemporaryDirectory() as folder:
        database = Path(folder).resolve() / "millrace.db"
        shutil.copyfile(sqlite_template, database)
        database.with_name("millrace.db.lock").touch()
        if os.geteuid() == 0:
            for path in (database.parent, *database.parent.iterdir()):
                os.chown(path, 65534, 65534)
        (database.parent / read_only).touch()
        (database.parent / read_only).chmod(0o555)

        command = [sys.executable, "-c", program, str(database)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

        database.parent.chmod(0o755)
    assert refusal in done.stdout, done
    assert str(database) in done.stdout


def test_a_file_system_without_locks_is_refused(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(ValueError, match=r"cannot lock .*: No locks available; put the database on a file system"):
            open_storage(sqlite_url)

    assert open_descriptors() == before
    open_storage(sqlite_url).close()


@pytest.mark.anyio
async def test_a_moved_file_is_logged_also_if_the_connection_of_the_writer_is_lost(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_to_commit(tx: Tx) -> None:
        tx.deferred.append(Statement("INSERT INTO"))

    database = Path(sqlite_url.removeprefix("sqlite:///"))
    storage = open_storage(sqlite_url)
    try:
        with pytest.raises(sqlite3.OperationalError):
            await storage.write(fail_to_commit)
        await asyncio.to_thread(database.rename, database.with_name("moved.db"))

        await storage.check_files()

        assert "was moved; writes are refused" in caplog.text
        assert storage.refusal is not None
    finally:
        storage.close()


def test_only_the_owner_reads_a_database_and_its_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "millrace.db", tmp_path / "copy.db"
    open_storage(f"sqlite:///{source}").close()
    copy_database(source, target, ".part")
    assert [path.stat().st_mode & 0o777 for path in (source, target)] == [0o600, 0o600]
