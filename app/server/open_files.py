"""Let the process have as many open files and connections as the system allows it."""

from __future__ import annotations

import contextlib


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one; do nothing on a system without such limits.

    The usual soft limit of 1,024 is less than the connections of a busy server to its clients and receivers.
    """
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses "without limit"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
