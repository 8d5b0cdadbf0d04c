"""Databases with current tables that tests use one after the other: emptying one costs a tenth of creating one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres import PostgresServer

# All that is not rows: objects with what depends on what, columns, settings of the database, and rights.
_SHAPE = """
SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
  SELECT row(oid, relname, relkind, relpersistence, relowner, relacl, reloptions, relreplident)::text AS line
    FROM pg_class WHERE oid >= 16384
  UNION ALL SELECT row(attrelid, attnum, attname, atttypid, attnotnull, atthasdef, attoptions, attstattarget)::text
    FROM pg_attribute WHERE attrelid >= 16384
  UNION ALL SELECT row(classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)::text
    FROM pg_depend WHERE objid >= 16384
  UNION ALL SELECT row(tgrelid, tgname, tgenabled)::text FROM pg_trigger
  UNION ALL SELECT row(setdatabase, setrole, setconfig)::text FROM pg_db_role_setting
  UNION ALL SELECT row(datdba, datacl, datallowconn, datconnlimit)::text
    FROM pg_database WHERE datname = current_database()
) AS lines
"""
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_RESTART_SEQUENCES = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE last_value IS NOT NULL
"""


class ReusedDatabases:
    """Copies of one template: each is emptied after its use, and dropped if its tables or settings have changed.

    Args:
        server: The server of the template.
        template: The name of a database with current tables, without connections.
    """

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._shapes: dict[str, str] = {}
        with psycopg.connect(server.database_url(template)) as connection:
            self._rows = {name: rows for name in _tables(connection) if (rows := _rows(connection, name))}

    @contextlib.contextmanager
    def borrow(self) -> Iterator[str]:
        """Give the URL of a database that is as the template, and take it back at the end."""
        url = self._free.pop() if self._free else self._create()
        try:
            yield url
        finally:
            if self._empty(url):
                self._free.append(url)
            else:
                self._server.drop_database(url)

    def _create(self) -> str:
        url = self._server.create_database(template=self._template)
        with psycopg.connect(url) as connection:
            self._shapes[url] = _shape(connection)
        return url

    def _empty(self, url: str) -> bool:
        """Make a database equal to the template; return false if that is not possible."""
        try:
            with psycopg.connect(url) as connection:
                connection.execute(_END_OTHERS)
                if _shape(connection) != self._shapes[url]:
                    return False
                connection.execute("SET LOCAL lock_timeout = '5s'")
                self._restore_rows(connection)
        except psycopg.Error:
            return False
        return True

    def _restore_rows(self, connection: psycopg.Connection) -> None:
        written = connection.execute(f"{_TABLES} AND pg_relation_size(oid) > 0").fetchall()
        names = [name for (name,) in written if name not in self._rows]
        if names:
            connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(",").join(map(sql.Identifier, names))))
        for name, rows in self._rows.items():
            if _rows(connection, name) != rows:
                table = sql.Identifier(name)
                connection.execute(sql.SQL("DELETE FROM {}").format(table))
                insert = "INSERT INTO {0} SELECT * FROM jsonb_populate_recordset(NULL::{0}, %s)"
                connection.execute(sql.SQL(insert).format(table), [rows])
        connection.execute(_RESTART_SEQUENCES)

    def close(self) -> None:
        """Drop the databases that are not in use."""
        while self._free:
            self._server.drop_database(self._free.pop())


def _tables(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(_TABLES)]


def _rows(connection: psycopg.Connection, name: str) -> str | None:
    """Return the rows as JSON text, or None if there are none."""
    statement = sql.SQL("SELECT jsonb_agg(t ORDER BY t)::text FROM {} AS t").format(sql.Identifier(name))
    (rows,) = connection.execute(statement).fetchone() or (None,)
    return None if rows is None else str(rows)


def _shape(connection: psycopg.Connection) -> str:
    (shape,) = connection.execute(_SHAPE).fetchone() or ("",)
    return str(shape)
