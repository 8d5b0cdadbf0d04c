"""Tables, migrations, and the view `log`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from app.domain.log.append import Append
from app.domain.log.record import KEY_BASE64, VALUE_BASE64, VALUE_JSON, VALUE_TEXT, Record
from app.storage.db import schema
from app.storage.db.opening import open_storage
from app.storage.db.tables import metadata
from app.storage.sources.tables import sources
from tests.storage.scribe import NOW_MS, Scribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx


def alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_path()))
    return config


@pytest.fixture
def empty(database_url: str) -> Iterator[Storage]:
    """An open database without tables, on either engine."""
    opened = open_storage(database_url)
    yield opened
    opened.close()


def test_the_newest_revision_is_the_one_that_the_code_needs() -> None:
    assert ScriptDirectory.from_config(alembic()).get_heads() == [schema.HEAD]


def test_the_migrations_create_the_tables_of_the_code(storage: Storage) -> None:
    def differences(tx: Tx) -> list[Any]:
        context = MigrationContext.configure(tx.connection, opts={"compare_type": True})
        found: list[Any] = compare_metadata(context, metadata)
        return found

    assert {sources.name} <= set(metadata.tables)
    assert storage.read_now(differences) == []


def test_an_empty_database_is_refused_with_the_command_that_migrates_it(empty: Storage) -> None:
    with pytest.raises(schema.SchemaNotCurrent, match=r"revision none .* needs \d{4}; run millrace migrate"):
        empty.read_now(schema.check)


def test_a_second_upgrade_changes_nothing(empty: Storage) -> None:
    assert empty.write_now(schema.upgrade) is True
    assert empty.write_now(schema.upgrade) is False
    empty.read_now(schema.check)


def test_the_migrations_can_be_downgraded_and_run_again(storage: Storage) -> None:
    def downgrade(tx: Tx) -> list[str]:
        config = alembic()
        config.attributes["connection"] = tx.connection
        command.downgrade(config, "base")
        return inspect(tx.connection).get_table_names() + inspect(tx.connection).get_view_names()

    assert storage.write_now(downgrade) == ["alembic_version"]
    assert storage.write_now(schema.upgrade) is True
    assert Scribe(storage).create().partitions == 1


def view(scribe: Scribe) -> list[tuple[Any, ...]]:
    statement = 'SELECT "offset", key, value, value_encoding, headers FROM log ORDER BY topic, partition, "offset"'
    return scribe.storage.read_now(lambda tx: [tuple(row) for row in tx.connection.exec_driver_sql(statement)])


def test_the_view_shows_every_record_as_text(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create()
    given = [
        Record(0, 1_517_363_399_650, b"k", b'{"a": 1}', None, VALUE_JSON),
        Record(0, -1, None, None, None, VALUE_JSON),
        Record(0, -1, b"", b"", b'[{"name":"n","value":"v"}]', VALUE_TEXT),
        Record(0, -1, b"\xff\x00", b"\x00\xff\xfe", None, VALUE_BASE64 | KEY_BASE64),
        Record(0, -1, b"nul\x00", b"nul\x00", None, VALUE_TEXT),
        Record(0, -1, "é".encode(), "ü😀\n".encode(), None, VALUE_TEXT),
        Record(0, -1, b"\\x41", b'"\\u0000"', None, VALUE_JSON),
    ]
    scribe.apply(Append(info.topic_id, "orders", 1, info.partition_ids, given, [0] * len(given)))

    assert view(scribe) == [
        (0, "k", '{"a": 1}', "json", None),
        (1, None, None, "json", None),
        (2, "", "", "text", '[{"name":"n","value":"v"}]'),
        (3, "ff00", "00fffe", "hex", None),
        (4, "6e756c00", "6e756c00", "hex", None),
        (5, "é", "ü😀\n", "text", None),
        (6, "\\x41", '"\\u0000"', "json", None),
    ]


def test_the_view_shows_keys_and_values_of_any_bytes(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create()
    every = bytes(range(256))
    given = [Record(0, -1, bytes([b]), bytes([b]) + every, None, VALUE_BASE64 | KEY_BASE64) for b in range(256)]
    scribe.apply(Append(info.topic_id, "orders", 1, info.partition_ids, given, [0] * 256))

    assert [(key, value[:2]) for _, key, value, _, _ in view(scribe)] == [(f"{b:02x}", f"{b:02x}") for b in range(256)]


def test_the_view_shows_only_records_of_the_log(storage: Storage) -> None:
    scribe = Scribe(storage)
    first, second = scribe.create("first", 2), scribe.create("second")
    scribe.append_values(first, b"1", b"2", b"3")
    scribe.append_values(first, b"4", partition=1)
    scribe.append_values(second, b"5")

    scribe.delete_before(first, 2)
    scribe.delete(second)

    assert [(row[0], row[2]) for row in view(scribe)] == [(2, "3"), (0, "4")]


def test_the_view_shows_times_in_utc(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create()
    scribe.append_values(info, b"1")

    (row,) = scribe.storage.read_now(
        lambda tx: tx.connection.exec_driver_sql("SELECT timestamp_ms, timestamp FROM log").all()
    )

    assert row[0] == NOW_MS
    assert str(row[1])[:19].replace("T", " ") == "2023-11-14 22:13:20"
