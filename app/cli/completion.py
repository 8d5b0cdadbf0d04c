"""Completion of the names of topics, groups and queues in the shell."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import typer

from app.cli.server_url import local_url
from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_S = 1.0
"""Longest time for a completion: the shell waits for it."""


def complete_topic(context: typer.Context, incomplete: str) -> list[str]:
    """Return the topics whose names begin with a text."""
    return list(_names("/v1/topics", context, incomplete))


def complete_group(context: typer.Context, incomplete: str) -> list[str]:
    """Return the groups whose names begin with a text."""
    return list(_names("/v1/groups", context, incomplete))


def complete_queue(context: typer.Context, incomplete: str) -> list[str]:
    """Return the queues whose names begin with a text."""
    return list(_names("/v1/queues", context, incomplete))


def _names(path: str, context: typer.Context, incomplete: str) -> Iterator[str]:
    """Return the names in a list of the server; none if the server does not answer in time."""
    from app.cli.client import Client

    deadline_s = time.monotonic() + _LONGEST_S
    try:
        url = context.params.get("url") or os.environ.get("MILLRACE_URL") or local_url()
        with Client(url, timeout_s=_LONGEST_S) as client:
            for item in client.list_items(path):
                if item["name"].startswith(incomplete):
                    yield item["name"]
                if time.monotonic() > deadline_s:
                    return
    except (CommandFailed, ValueError, LookupError, TypeError):
        return
