"""`millrace migrate`: bring the tables to the newest revision."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings import Settings


def migrate(
    database_url: Annotated[
        str | None, typer.Option(help="The database (MILLRACE_DATABASE_URL; sqlite:///millrace.db).")
    ] = None,
) -> None:
    """Create or update the tables.

    PostgreSQL needs it before the first start and after each upgrade; on SQLite `serve` does it by itself.
    Several may run at once; the tables are changed by one.
    """
    from app.storage.db import schema
    from app.storage.db.opening import open_storage

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    with told_in_one_sentence():
        storage = open_storage(settings.database_url)
        try:
            before = storage.read_now(schema.version)
            done = storage.write_now(schema.upgrade)
        finally:
            storage.close()
    if not done:
        print(f"the tables are current: revision {schema.HEAD}")
    elif before is None:
        print(f"created the tables: revision {schema.HEAD}")
    else:
        print(f"updated the tables: revision {before} to {schema.HEAD}")


def read_settings(given: dict[str, Any]) -> Settings:
    """Return the settings, of which `given` wins over the environment.

    Raises:
        CommandFailed: With every setting that is wrong; its value is not shown, since it may hold a password.
    """
    from app.settings import Settings

    try:
        return Settings(**given)
    except ValueError as error:
        faults = error.errors() if hasattr(error, "errors") else []
        reasons = "; ".join(f"MILLRACE_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in faults)
        raise CommandFailed(f"a setting is wrong: {reasons or error}") from None


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Turn what keeps a database from being opened into one sentence.

    Raises:
        CommandFailed: With that sentence, and what the database itself said of it.
    """
    from app.errors.broker_error import BrokerError
    from app.storage.db.schema import SchemaNotCurrent
    from app.storage.db.sqlite import DatabaseInUse

    try:
        yield
    except (ValueError, DatabaseInUse, SchemaNotCurrent) as error:
        raise CommandFailed(str(error)) from error
    except BrokerError as error:
        raise CommandFailed(f"{error.detail.removesuffix('; try again')}{_said(error.__cause__)}") from error
    except Exception as error:
        if not (said := _said(error)):
            raise
        raise CommandFailed(f"the database cannot be used{said}") from error


def _said(error: BaseException | None) -> str:
    """Return what the database driver said first, if the error is its own."""
    original = getattr(error, "orig", None)
    lines = str(original).strip().splitlines() if original is not None else []
    return f": {lines[0]}" if lines else ""
