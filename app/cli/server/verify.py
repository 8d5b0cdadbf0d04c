"""`millrace verify`: check a database, also one that a server uses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.server.migrate import one_line_database_errors
from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import ERROR, CommandFailed
from app.cli.terminal.output import counted, emit_json, print_message, printable

if TYPE_CHECKING:
    from app.storage.verification.report import Report


def verify(
    database_url: Annotated[
        str | None, typer.Option(help="Database URL (MILLRACE_DATABASE_URL; sqlite:///millrace.db).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Check that the whole database is consistent.

    It reads in one read transaction and changes nothing, so it may run beside a server, or on a backup. The exit code
    is 0 if the database is consistent, else 1.
    """
    from app.storage.db.opening import open_snapshot
    from app.storage.db.schema import HEAD
    from app.storage.db.sqlite.reader import DatabaseOpened
    from app.storage.verification import verification
    from app.storage.verification.report import Report

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    for sentence in ignored_variables():
        print_message(sentence)
    report = Report(show_progress)
    try:
        with one_line_database_errors(), open_snapshot(settings.database_url) as snapshot:
            verification.verify(snapshot, report)
    except DatabaseOpened as error:
        raise CommandFailed(str(error)) from None
    finally:
        end_progress()
    if as_json:
        emit_json(_as_object(report, snapshot.database, HEAD))
    else:
        print_inconsistencies(report)
        if report.is_consistent:
            print(f"consistent: {summary_of(report)} ({snapshot.database}, revision {HEAD})")
    if not report.is_consistent:
        raise typer.Exit(ERROR)


def summary_of(report: Report) -> str:
    """Return how much a verification has read."""
    records, partitions, topics = (report.checked[table] for table in ("records", "partitions", "topics"))
    return f"{counted(records, 'record')} in {counted(partitions, 'partition')} of {counted(topics, 'topic')}"


def print_inconsistencies(report: Report) -> None:
    """Print one line for each inconsistency, and how many more there are."""
    for kind, subject, detail in report.found:
        print(f"{kind} {printable(subject)}: {printable(detail)}")
    for kind, number in report.more.items():
        print(f"{kind}: {number} more")
    if not report.is_consistent:
        total = len(report.found) + report.more.total()
        print(f"inconsistent: {total} found in {summary_of(report)}")


def show_progress(records: int) -> None:
    """Show on a terminal how many records have been read."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{records:,} records")
        sys.stderr.flush()


def end_progress() -> None:
    """Clear the line of the progress."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _as_object(report: Report, database: str, revision: str) -> dict[str, object]:
    return {
        "status": "consistent" if report.is_consistent else "inconsistent",
        "database": database,
        "revision": revision,
        "checked": dict(sorted(report.checked.items())),
        "inconsistencies": [found._asdict() for found in report.found],
        "more": dict(report.more),
    }
