"""`millrace migrate`: update the tables to the newest revision."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message

if TYPE_CHECKING:
    from collections.abc import Iterator


def migrate(
    database_url: Annotated[
        str | None, typer.Option(help="Database URL (MILLRACE_DATABASE_URL; sqlite:///millrace.db).")
    ] = None,
) -> None:
    """Create or update the tables.

    Run it on PostgreSQL before the first start and after each upgrade. On SQLite, `serve` does it by itself.
    Concurrent runs are safe: one of them changes the tables.
    """
    from app.storage.db import schema
    from app.storage.db.opening import open_storage

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    for sentence in ignored_variables():
        print_message(sentence)
    with one_line_database_errors():
        storage = open_storage(settings.database_url)
        try:
            storage.require_sessions()
            before = storage.read_now(schema.version)
            upgraded = storage.write_now(schema.upgrade)
        finally:
            storage.close()
    if not upgraded:
        print(f"the tables are current: revision {schema.HEAD}")
    elif before is None:
        print(f"created the tables: revision {schema.HEAD}")
    else:
        print(f"updated the tables: revision {before} to {schema.HEAD}")


@contextmanager
def one_line_database_errors() -> Iterator[None]:
    """Turn errors on opening the database into one-line failures.

    Raises:
        CommandFailed: The database cannot be opened; the message ends with the first line of the driver's error.
    """
    from app.errors.broker_error import BrokerError
    from app.storage.db.schema import SchemaNotCurrent
    from app.storage.db.sqlite.files import DatabaseInUse

    try:
        yield
    except (ValueError, DatabaseInUse, SchemaNotCurrent) as error:
        raise CommandFailed(str(error)) from error
    except BrokerError as error:
        raise CommandFailed(f"{error.detail.removesuffix('; try again')}{_driver_message(error.__cause__)}") from error
    except Exception as error:
        if not (message := _driver_message(error)):
            raise
        raise CommandFailed(f"the database cannot be used{message}") from error


def _driver_message(error: BaseException | None) -> str:
    """Return a colon and the first line of the database driver's error; nothing for other errors."""
    original = getattr(error, "orig", None)
    if original is None and type(error).__module__.startswith("psycopg"):
        original = error
    lines = str(original).strip().splitlines() if original is not None else []
    return f": {lines[0]}" if lines else ""
