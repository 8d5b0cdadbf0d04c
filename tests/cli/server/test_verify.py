"""`millrace verify`: what it prints, its exit code, and that it changes no file."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from app.storage.db.schema import HEAD
from tests.cli.processes import MILLRACE
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.processes import Cli

RECORDS = 12


async def fill(node: ServerProcess) -> None:
    async with node.client() as client:
        await client.put("/v1/topics/orders", json={"partitions": 2})
        for number in range(RECORDS):
            await client.post("/v1/topics/orders/records", json={"key": f"k{number}", "value": number})
        secret = {"scheme": "github", "secret": "not a secret any more"}
        await client.put("/v1/sources/hub", json={"topic": "pushes", "verify": secret})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("millrace.db*") if path.suffix != ".ballast"}


def lose_a_record(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DELETE FROM records WHERE record_id = (SELECT min(record_id) + 1 FROM records)")
    connection.close()


@pytest.mark.anyio
async def test_verify_and_backup_beside_a_server_and_after_a_kill_change_no_file(alone: Cli) -> None:
    with ServerProcess(f"sqlite:///{alone.folder / 'millrace.db'}", alone.folder) as node:
        await fill(node)
        before = contents(alone.folder)
        verified = alone.ok("verify").out
        copied = alone.ok("backup", "copy.db")
        after = contents(alone.folder)
        node.kill()
    before_killed = contents(alone.folder)
    verified_again = alone.ok("verify").out
    after_killed = contents(alone.folder)
    restored = alone.ok("restore", "copy.db", "--database-url", "sqlite:///restored.db")

    summary = f"{RECORDS} records in 6 partitions of 2 topics"
    assert verified == verified_again == f"consistent: {summary} (sqlite, revision {HEAD})\n".encode()
    assert len(before["millrace.db-wal"]) > 0
    for name in ("millrace.db", "millrace.db-wal"):
        assert after[name] == before[name]
        assert after_killed[name] == before_killed[name]
    assert copied.out == f"copied {RECORDS} records in 6 partitions to copy.db\n".encode()
    assert "the key of the secrets is not in the backup" in copied.err
    assert restored.out == f"restored {summary} to {alone.folder / 'restored.db'}\n".encode()


def test_verify_names_each_inconsistency_and_exits_with_1(alone: Cli, sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "millrace.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO group_ticks (ticked_at_ms) VALUES (1), (2)")
    connection.close()

    printed = alone("verify", "--database-url", sqlite_url)
    as_json = alone("verify", "--json", "--database-url", sqlite_url)

    assert printed.code == as_json.code == 1
    first, last = printed.out.decode().splitlines()
    assert first.startswith("GROUPS group_ticks: it has ")
    assert last == "inconsistent: 1 found in 0 records in 0 partitions of 0 topics"
    report = json.loads(as_json.out)
    assert (report["status"], report["database"], report["revision"]) == ("inconsistent", "sqlite", HEAD)
    assert [(found["kind"], found["subject"]) for found in report["inconsistencies"]] == [("GROUPS", "group_ticks")]
    assert report["more"] == {}


@pytest.mark.postgres
def test_verify_reads_postgresql(alone: Cli, migrated_postgres_url: str) -> None:
    found = alone.ok("verify", "--database-url", migrated_postgres_url)

    assert found.out == f"consistent: 0 records in 0 partitions of 0 topics (postgresql, revision {HEAD})\n".encode()


def test_verify_refuses_what_is_no_current_database(alone: Cli, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    (tmp_path / "text.db").write_text("no database" * 500)

    missing = alone("verify", "--database-url", "sqlite:///none.db")
    other = alone("verify", "--database-url", "sqlite:///other.db")
    text = alone("verify", "--database-url", "sqlite:///text.db")

    assert (missing.code, other.code, text.code) == (1, 1, 1)
    assert "there is no database at" in missing.err
    assert "is not a database of Millrace" in other.err
    assert "file is not a database" in text.err
    assert not (alone.folder / "none.db").exists()


def test_backup_and_restore_give_a_consistent_copy(alone: Cli, sqlite_url: str, tmp_path: Path) -> None:
    copied = alone.ok("backup", "copy.db", "--database-url", sqlite_url)
    again = alone("backup", "copy.db", "--database-url", sqlite_url)
    verified = alone.ok("verify", "--database-url", "sqlite:///copy.db")
    occupied = alone("restore", "copy.db", "--database-url", sqlite_url)
    restored = alone.ok("restore", "copy.db", "--database-url", "sqlite:///restored.db")

    assert copied.out == b"copied 0 records in 0 partitions to copy.db\n"
    assert (again.code, "exists, and is not overwritten" in again.err) == (1, True)
    assert verified.out.startswith(b"consistent: ")
    assert (occupied.code, "millrace.db exists, and is not overwritten" in occupied.err) == (1, True)
    assert restored.out.startswith(b"restored 0 records in 0 partitions")
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["copy.db", "millrace.db", "restored.db"]


def test_an_inconsistent_backup_is_not_restored(alone: Cli, sqlite_url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "millrace.db")
    with connection:
        connection.execute("INSERT INTO group_ticks (ticked_at_ms) VALUES (1), (2)")
    connection.close()

    refused = alone("restore", "millrace.db", "--database-url", "sqlite:///restored.db")

    assert refused.code == 1
    assert "is inconsistent, and was not restored" in refused.err
    assert not (tmp_path / "restored.db").exists()


def test_a_backup_that_cannot_be_finished_leaves_no_file(alone: Cli, sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    ended = alone.shell(f"ulimit -f 60; {MILLRACE} backup small/copy.db --database-url {sqlite_url}")

    assert ended.code == 1
    assert "cannot copy" in ended.err
    assert list((tmp_path / "small").iterdir()) == []


def test_an_older_backup_is_restored_after_a_check_of_its_structure(
    alone: Cli, sqlite_url: str, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "millrace.db")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()

    restored = alone.ok("restore", "millrace.db", "--database-url", "sqlite:///restored.db")

    assert restored.out.endswith(b"at revision 0001\n")
    assert "of an older release" in restored.err


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_postgresql_is_backed_up_by_its_own_tools(alone: Cli, tmp_path: Path, command: str) -> None:
    (tmp_path / "copy.db").touch()

    refused = alone(command, "copy.db", "--database-url", "postgresql://db/millrace")

    assert refused.code == 1
    assert "pg_basebackup" in refused.err
