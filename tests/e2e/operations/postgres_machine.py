"""A folder of the account that runs PostgreSQL, in which the commands of documents and scripts run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.postgres import _Account, _choose_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAMS = ("createdb", "pg_basebackup", "pg_ctl", "pg_dump", "pg_restore", "pg_verifybackup", "postgres", "psql")


@dataclass
class Machine:
    """A folder of the account that runs PostgreSQL, and the programs of PostgreSQL."""

    account: _Account
    folder: Path
    programs: Path

    def run(self, commands: str, **variables: str | Path) -> str:
        """Run the commands of a document, with its variables and its archive in the folder."""
        assigned = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
        placed = commands.replace("/archive/", f"{self.folder}/archive/")
        script = f"set -e\nPATH={self.programs}:$PATH\n{assigned}{placed}"
        return self.account.run(["sh", "-c", script], self.folder)

    def start(self, command: str, **variables: str | Path) -> subprocess.Popen[bytes]:
        """Start a command that goes on running."""
        exported = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
        script = f"export PATH={self.programs}:$PATH\n{exported}exec {command}"
        return self.account.popen(["sh", "-c", script], self.folder, subprocess.DEVNULL)


@contextlib.contextmanager
def postgres_machine() -> Iterator[Machine]:
    """A machine with an empty archive, removed at the end."""
    account = _Account.choose()
    folder = Path(tempfile.mkdtemp(prefix="millrace-recovery-", dir=account.temporary_folder()))
    (folder / "archive").mkdir()
    for path in (folder, folder / "archive"):
        account.own(path)
    try:
        yield Machine(account, folder, programs_for(account, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def programs_for(account: _Account, folder: Path) -> Path:
    """Return the folder of the programs, or of a copy if the account cannot run them."""
    installation = _choose_installation(None)
    try:
        account.run([str(installation / "bin" / "pg_ctl"), "--version"], folder)
    except (PermissionError, RuntimeError):
        copy = folder / installation.parent.name / installation.name
        for part in ("lib", "share"):
            shutil.copytree(installation / part, copy / part)
        (copy / "bin").mkdir()
        for program in _PROGRAMS:
            shutil.copy2(installation / "bin" / program, copy / "bin")
        libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        return copy / "bin"
    return installation / "bin"
