"""`millrace backup` and `millrace restore`: whole copies of an SQLite database."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.server.migrate import one_line_database_errors
from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.server.verify import end_progress, print_inconsistencies, show_progress, summary_of
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import counted, print_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.db.opening import Snapshot
    from app.storage.verification.report import Report

_DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", help="Database URL (MILLRACE_DATABASE_URL; sqlite:///millrace.db).")
]
_POSTGRES = (
    "PostgreSQL has tools of its own: pg_dump copies one database, pg_basebackup and an archive of the WAL restore any "
    "moment; docs/backup.md has the commands"
)


def backup(
    file: Annotated[Path, typer.Argument(help="The file to create. An existing file is not overwritten.")],
    database_url: _DatabaseUrl = None,
) -> None:
    """Copy an SQLite database to a file, also while its server runs.

    The copy is one whole file. Check it with: millrace verify --database-url sqlite:///FILE
    """
    from app.storage.db.opening import open_snapshot
    from app.storage.db.sqlite.copies import copy_database
    from app.storage.verification import contents

    source = _database(database_url)
    with _one_line_errors():
        copy_database(source, file.absolute(), ".partial", _show_pages)
        end_progress()
        with open_snapshot(f"sqlite:///{file.absolute()}") as snapshot:
            records, partitions = contents.count_records(snapshot)
            has_secrets = contents.has_secrets(snapshot)
    print(f"copied {counted(records, 'record')} in {counted(partitions, 'partition')} to {file}")
    if has_secrets:
        print_message(
            f"the key of the secrets is not in the backup: keep a copy of {source.name}.secret-key, or of "
            "MILLRACE_SECRET_KEY, in another place"
        )


def restore(
    file: Annotated[Path, typer.Argument(help="A file that millrace backup has created.", exists=True, dir_okay=False)],
    database_url: _DatabaseUrl = None,
) -> None:
    """Create an SQLite database from a backup, while its server is stopped.

    The backup is verified first. An existing database is not overwritten: move it away with its -wal and -shm.
    """
    from app.storage.db.opening import open_snapshot
    from app.storage.db.sqlite.copies import copy_database, refuse_existing
    from app.storage.verification import contents
    from app.storage.verification.report import Report

    target = _database(database_url)
    report = Report(show_progress)
    with _one_line_errors():
        refuse_existing(target)
        with open_snapshot(f"sqlite:///{file.absolute()}") as snapshot:
            older = _check(snapshot, report)
            has_secrets = contents.has_secrets(snapshot)
        end_progress()
        if not report.is_consistent:
            print_inconsistencies(report)
            raise CommandFailed(f"{file} is inconsistent, and was not restored")
        copy_database(file.absolute(), target, ".restoring", _show_pages)
    end_progress()
    if older is None:
        print(f"restored {summary_of(report)} to {target}")
    else:
        print(f"restored {target} at revision {older}")
        print_message("the backup is of an older release: start the server, which updates it, and run millrace verify")
    print_message("its keys and ACLs are those of the backup: revoke again what was revoked since")
    if has_secrets:
        print_message(
            f"it has encrypted secrets: put their key back as {target.name}.secret-key, or set MILLRACE_SECRET_KEY"
        )


def _check(snapshot: Snapshot, report: Report) -> str | None:
    """Verify a backup. Of an older release only the structure is checked: return its revision, else None."""
    from app.storage.db.schema import HEAD
    from app.storage.verification import verification

    revision = verification.revision_of(snapshot)
    if revision is not None and revision < HEAD:
        verification.check_integrity(snapshot, report)
        return revision
    verification.verify(snapshot, report)
    return None


def _database(database_url: str | None) -> Path:
    """Return the file of the database in the settings.

    Raises:
        CommandFailed: The database is PostgreSQL, or the URL is wrong.
    """
    from app.storage.db.opening import is_postgres, sqlite_path

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    for sentence in ignored_variables():
        print_message(sentence)
    if is_postgres(settings.database_url):
        raise CommandFailed(_POSTGRES)
    with one_line_database_errors():
        return sqlite_path(settings.database_url)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from app.storage.db.sqlite.copies import FileExists
    from app.storage.db.sqlite.reader import DatabaseOpened

    try:
        with one_line_database_errors():
            yield
    except (FileExists, DatabaseOpened) as error:
        raise CommandFailed(str(error)) from None


def _show_pages(left: int, pages: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{100 * (pages - left) // max(pages, 1)} %")
        sys.stderr.flush()
