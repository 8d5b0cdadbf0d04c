"""`millrace nodes`: the nodes that serve the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from app.cli.client import Client, Verbose
from app.cli.server_url import Url
from app.cli.terminal.tables import emit_items

_COLUMNS = ("host", "address", "version", "since", "state", "webhooks")


def nodes(
    url: Url,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, as when piped.")] = False,
    verbose: Verbose = False,
) -> None:
    """List the nodes that serve the database."""
    with Client(url, verbose=verbose) as client:
        items = client.send("GET", "/v1/nodes").json()["items"]
        emit_items(items, _COLUMNS, _row, "there are no nodes", as_json=as_json)


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    since = datetime.fromtimestamp(node["started_at_ms"] / 1_000, UTC).isoformat(" ", "seconds")
    down = ", ".join(node["tasks_down"])
    state = "lost" if not node["alive"] else f"down: {down}" if down else "ok"
    return node["host"], node["address"], node["version"], since, state, node["webhooks"]
