"""The commands of docs/backup.md for PostgreSQL, run as they are written."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from app.storage.db.opening import open_snapshot, open_storage
from app.storage.verification import verification
from app.storage.verification.report import Report
from tests.checkout import ROOT
from tests.e2e.operations.full_database import load_stored
from tests.e2e.operations.postgres_machine import Machine, postgres_machine
from tests.postgres import PostgresServer, _free_port
from tests.storage.scribe import Scribe
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres

_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def blocks() -> list[str]:
    """Return the commands and settings of the section about PostgreSQL, in order, without their indentation."""
    _, _, section = (ROOT / "docs" / "backup.md").read_text().partition("\n## PostgreSQL\n")
    section = section.partition("\n## ")[0]
    return ["\n".join(line.strip() for line in body.splitlines()) for _, body in _BLOCK.findall(section)]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with postgres_machine() as created:
        yield created


@pytest.fixture(scope="module")
def primary(machine: Machine) -> Iterator[PostgresServer]:
    """A server that archives its write-ahead log as the document says."""
    settings = dict(line.split(" = ", 1) for line in blocks()[1].splitlines())
    settings = {
        name: value.strip("'").replace("/archive/", f"{machine.folder}/archive/") for name, value in settings.items()
    }
    with PostgresServer(settings=settings) as server:
        yield server


def assert_consistent(url: str) -> None:
    report = Report()
    with open_snapshot(url) as snapshot:
        verification.verify(snapshot, report)
    assert report.found == []


def test_a_dump_is_restored_and_consistent(machine: Machine, primary: PostgresServer) -> None:
    url = primary.create_database()
    load_stored(url)

    machine.run(
        blocks()[0].replace("millrace verify", ": millrace verify"),
        DATABASE_URL=url,
        SERVER_URL=primary.url,
        RESTORED_URL=primary.database_url("restored"),
    )

    assert_consistent(primary.database_url("restored"))


@pytest.mark.anyio
async def test_the_moment_before_a_mistake_is_restored_from_a_base_backup_and_the_archive(
    machine: Machine, primary: PostgresServer
) -> None:
    _, _, base_backup, restore = blocks()
    url = primary.create_database()
    load_stored(url)
    backup, restored = machine.folder / "base", machine.folder / "restored"

    # pg_verifybackup of the wheel ends with SIGSEGV, whatever the backup.
    base_backup = base_backup.replace('pg_verifybackup "$BACKUP"', 'pg_verifybackup "$BACKUP" || test $? -eq 139')
    machine.run(base_backup, SERVER_URL=primary.url, BACKUP=backup)
    with contextlib.closing(open_storage(url)) as storage:
        scribe = Scribe(storage)
        offsets = scribe.append_values(scribe.find("orders"), b"1", partition=1)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_create_restore_point('before_the_mistake')")
        connection.execute("DELETE FROM records")
        switched = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert switched is not None

        async def last_archived() -> str:
            row = connection.execute("SELECT last_archived_wal FROM pg_stat_archiver").fetchone()
            return "" if row is None or row[0] is None else str(row[0])

        await until(last_archived, lambda name: name >= switched[0])
    port = _free_port()
    settings = {"port": port, "max_connections": 200, "unix_socket_directories": f"'{machine.folder}'"}
    lines = "".join(f'echo "{name} = {value}" >> "$BACKUP/postgresql.conf"\n' for name, value in settings.items())
    machine.run(lines + restore, BACKUP=backup, RESTORED=restored)
    try:
        restored_url = primary.database_url(url.rpartition("/")[2]).replace(f":{port_of(primary)}/", f":{port}/")
        assert_consistent(restored_url)
        with contextlib.closing(open_storage(restored_url)) as storage:
            scribe = Scribe(storage)
            values = scribe.values(scribe.find("orders"), partition=1)
    finally:
        machine.run('pg_ctl stop --pgdata="$RESTORED" --mode=immediate', RESTORED=restored)

    assert values[offsets[0]] == b"1"


def port_of(server: PostgresServer) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port
