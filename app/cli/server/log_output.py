"""The server's log on standard error: as text, or as one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from typing_extensions import override

from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ACCESS_LOGGER = "app.server.access_log"
_log = logging.getLogger(__name__)


def log_to_stderr(level: str, log_format: str, *, access_log: bool) -> None:
    """Configure logging. Libraries log warnings and errors only: the rest has parameters of SQL.

    Args:
        level: debug, info, warning or error.
        log_format: text or json.
        access_log: Whether requests are logged, at every level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format == "json" else _TextLines(_TEXT))
    lowest = getattr(logging, level.upper())
    logging.basicConfig(level=max(lowest, logging.WARNING), handlers=[handler])
    logging.getLogger("app").setLevel(lowest)
    if access_log:
        logging.getLogger(_ACCESS_LOGGER).setLevel(logging.INFO)
    logging.captureWarnings(True)
    if log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda args: _log.critical("a thread failed", exc_info=args.exc_value)
        sys.unraisablehook = lambda args: _log.error("%s", args.err_msg or "ignored", exc_info=args.exc_value)


@contextmanager
def failures_in_log() -> Iterator[None]:
    """Log the failure that ends the command as JSON, and exit with its code, instead of printing it.

    Raises:
        SystemExit: With the exit code of the failure.
    """
    try:
        yield
    except CommandFailed as error:
        message, code = str(error), error.exit_code
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        message, code = error.code.removeprefix("millrace: "), 1
    else:
        return
    if not logging.getLogger().handlers:  # the settings are wrong
        log_to_stderr("info", "json", access_log=False)
    _log.critical("%s", message)
    raise SystemExit(code)


class _TextLines(logging.Formatter):
    """Escapes control characters: text of a client cannot look like another line of the log."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class _JsonLines(logging.Formatter):
    """One JSON object for each record, with the `fields` of the record."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip("\n"),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return json.dumps(entry, default=str)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _log.critical("the server failed", exc_info=(kind, error, trace))
