"""`millrace` with a fault: `python -m tests.history.planted.faulty_server "fsync off" serve …`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from app.cli import main
from app.storage.db.sqlite import dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _do_not_flush() -> None:
    """Set `synchronous=OFF` as the last pragma of the connection that writes."""
    pragmas = dialect._writer_pragmas

    def without_flush(ballast_bytes: int) -> Sequence[str]:
        return [*pragmas(ballast_bytes), "synchronous=OFF"]

    dialect._writer_pragmas = without_flush


FAULTS: dict[str, Callable[[], None]] = {"fsync off": _do_not_flush}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
