"""The scripts of `deploy/postgres` make a standby that can be promoted, with everything that was acknowledged."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

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

SCRIPTS = ROOT / "deploy" / "postgres"
SETTINGS = {"max_connections": "100"}  # PostgreSQL's default, as in compose.yaml: a standby needs as many


@pytest.fixture
def machine() -> Iterator[Machine]:
    with postgres_machine() as created:
        yield created


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.anyio
async def test_the_standby_of_compose_takes_over_all_that_was_acknowledged(machine: Machine) -> None:
    pgdata, port = machine.folder / "pgdata", _free_port()
    with PostgresServer(settings=SETTINGS) as primary:
        assert primary.socket_directory is not None
        host, _, primary_port = primary.url.rpartition("@")[2].partition("/")[0].partition(":")
        connection = {"PGHOST": host, "PGPORT": primary_port, "REPLICATION_PASSWORD": "secret"}
        server = {
            "PGDATA": str(primary.socket_directory / "data"),
            "POSTGRES_USER": "millrace",
            "POSTGRES_DB": "postgres",
        }
        machine.run((SCRIPTS / "primary.sh").read_text().replace("set -euo pipefail", ""), **connection, **server)
        script = (SCRIPTS / "standby.sh").read_text().replace("host=postgres", f"host={host} port={primary_port}")
        options = f"-c port={port} -c unix_socket_directories={machine.folder}"
        written = machine.folder / "standby.sh"
        written.write_text(script.replace("exec postgres", f"exec postgres {options}"))
        machine.run(f"mkdir -m 0700 {pgdata}")
        standby = machine.start(f"bash {written}", PGDATA=pgdata, REPLICATION_PASSWORD="secret")
        try:
            url = primary.create_database()
            await until_synchronous(primary)
            load_stored(url)
            with contextlib.closing(open_storage(url)) as storage:
                scribe = Scribe(storage)
                offsets = scribe.append_values(scribe.find("orders"), b"acknowledged", partition=1)
            primary.stop()
            machine.run('pg_ctl promote --pgdata="$PGDATA" --wait', PGDATA=pgdata)
            both = url.replace(f"@{host}:{primary_port}/", f"@{host}:{primary_port},{host}:{port}/")
            promoted = f"{both}?target_session_attrs=read-write"
            report = Report()
            with open_snapshot(promoted) as snapshot:
                verification.verify(snapshot, report)
            with contextlib.closing(open_storage(promoted)) as storage:
                scribe = Scribe(storage)
                values = scribe.values(scribe.find("orders"), partition=1)
                following = scribe.append_values(scribe.find("orders"), b"after", partition=1)
        finally:
            machine.run('pg_ctl stop --pgdata="$PGDATA" --mode=immediate || true', PGDATA=pgdata)
            standby.wait()

    assert report.found == []
    assert values[offsets[0]] == b"acknowledged"
    assert following == [offsets[0] + 1]


async def until_synchronous(primary: PostgresServer) -> None:
    """Make commits wait for the standby, as docs/deployment.md says, once it streams."""
    with psycopg.connect(primary.url, autocommit=True) as connection:

        async def state() -> str:
            found = connection.execute(
                "SELECT state || ' ' || sync_state FROM pg_stat_replication WHERE application_name = 'standby'"
            ).fetchall()
            return ", ".join(row[0] for row in found)

        await until(state, lambda found: found == "streaming async")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        connection.execute("SELECT pg_reload_conf()")
        await until(state, lambda found: found == "streaming sync")
