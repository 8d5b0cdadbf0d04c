"""The ballast file: its space, and other files at its path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.storage.db.opening import open_storage
from app.storage.db.sqlite.ballast import Ballast

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_BYTES = 65_536


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_at_the_path_of_the_ballast_is_replaced_and_its_file_is_kept(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    other = tmp_path / "letters.txt"
    other.write_bytes(b"dear reader")
    link(other, tmp_path / "millrace.db.ballast")

    ballast = Ballast(tmp_path / "millrace.db", SIZE_BYTES)
    ballast.exhaust()
    assert ballast.restore()

    assert other.read_bytes() == b"dear reader"
    assert not (tmp_path / "millrace.db.ballast").is_symlink()
    assert allocated_bytes(tmp_path / "millrace.db.ballast") >= SIZE_BYTES


def test_a_copied_ballast_without_its_space_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "millrace.db.ballast"
    path.touch()
    os.truncate(path, SIZE_BYTES)
    assert allocated_bytes(path) == 0

    Ballast(tmp_path / "millrace.db", SIZE_BYTES)

    assert (path.stat().st_size, allocated_bytes(path) >= SIZE_BYTES) == (SIZE_BYTES, True)


@pytest.mark.anyio
async def test_a_ballast_that_was_deleted_is_written_again_while_the_server_runs(
    sqlite_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "millrace.db.ballast"
    storage = open_storage(sqlite_url, ballast_bytes=SIZE_BYTES)
    path.unlink()

    await storage.check_space()

    assert allocated_bytes(path) >= SIZE_BYTES
    assert not storage.full
    storage.close()


def test_a_full_disk_whose_folder_is_gone_does_not_fail(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    ballast = Ballast(folder / "millrace.db", SIZE_BYTES)
    ballast.exhaust()
    shutil.rmtree(folder)

    assert ballast.missing_bytes == 0
    assert not ballast.restore()
    ballast.exhaust()
    assert ballast.exhausted


def test_a_ballast_that_cannot_be_written_is_refused_at_start_and_the_database_is_released(
    sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / "millrace.db.ballast").mkdir()

    with pytest.raises(ValueError, match=r"cannot write the ballast file .*or set MILLRACE_BALLAST_BYTES=0"):
        open_storage(sqlite_url, ballast_bytes=SIZE_BYTES)

    assert not (tmp_path / "millrace.db-wal").exists()
    open_storage(sqlite_url).close()
