"""`millrace keys`: create, list and revoke API keys."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Verbose
from app.cli.credentials import API_KEY
from app.cli.log.topics import Json, Yes
from app.cli.server.admin_key import create_admin_key
from app.cli.server_url import Url
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import confirm, emit_json, print_message, stdout_is_terminal
from app.cli.terminal.tables import emit_items, emit_table

keys = typer.Typer(no_args_is_help=True, help="Manage API keys: create, list and revoke them.")

_COLUMNS = ("key_id", "name", "principal", "admin", "expires_at", "last_used_at")
_DAY_MS = 86_400_000
_SHOWN_ONCE = "the key is shown only now; send it as `Authorization: Bearer`, or set MILLRACE_API_KEY"


@keys.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the keys that were not revoked, without their secrets."""
    with Client(url, verbose=verbose) as client:
        emit_items(client.list_items("/v1/keys"), _COLUMNS, _row, "there are no keys yet", as_json=as_json)


@keys.command()
def create(
    context: typer.Context,
    url: Url,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What people call the key; with --admin, admin by default.")
    ] = None,
    principal: Annotated[
        str | None, typer.Option("--principal", help="Principal for which it speaks in ACLs; by default NAME.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="No ACL restricts it. Required for the first key.")] = False,
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", min=1, max=36_500, help="Days until it expires; by default never.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", help="Database for --admin (MILLRACE_DATABASE_URL).")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Create a key.

    With --admin, and without a server in --url or a key in MILLRACE_API_KEY, it is made in the database itself, on its
    machine; an SQLite server must be stopped for it. So the first key is made.
    """
    if name is None and not admin:
        raise typer.BadParameter("give the key a name, such as that of its program", param_hint="NAME")
    name = name or "admin"
    principal = name if principal is None else principal
    if database_url is not None or (admin and not _names_server(context)):
        if not admin or expires_days is not None:
            raise CommandFailed("in the database itself only a key with --admin is made, which never expires")
        key_id, key = create_admin_key(name, principal, database_url)
        created = {"key_id": key_id, "name": name, "principal": principal, "admin": True, "key": key}
    else:
        given: dict[str, object] = {"name": name, "principal": principal, "admin": admin}
        if expires_days is not None:
            given["expires_at_ms"] = time.time_ns() // 1_000_000 + expires_days * _DAY_MS
        with Client(url, verbose=verbose) as client:
            created = client.send("POST", "/v1/keys", body=json.dumps(given).encode()).json()
    print_message(_SHOWN_ONCE)
    if stdout_is_terminal():
        shown = ("key", "key_id", "principal", "admin")
        emit_table(("key", "value"), [(field, created[field]) for field in shown])
    else:
        emit_json(created)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Its id, the part between the underscores.")],
    url: Url,
    yes: Yes = False,
    verbose: Verbose = False,
) -> None:
    """Revoke a key: within five seconds no node accepts it."""
    if key_id.startswith("mr_"):
        raise typer.BadParameter("give the id, the part between the underscores: a key does not belong into a command")
    with Client(url, verbose=verbose) as client:
        confirm(f"Revoke the key {key_id}? Its clients get 401, and it cannot be restored.", yes=yes)
        client.send("DELETE", f"/v1/keys/{quote(key_id, safe='')}")
    print_message(f"revoked {key_id}")


def _names_server(context: typer.Context) -> bool:
    """Return whether the user means a server: named by an option or a variable, or with a key for it."""
    source = context.get_parameter_source("url")
    is_named = source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"}
    return is_named or bool(os.environ.get(API_KEY, "").strip())


def _row(key: dict[str, Any]) -> list[object]:
    times = [_time(key["expires_at_ms"]), _time(key["last_used_at_ms"])]
    return [key["key_id"], key["name"], key["principal"], key["admin"], *times]


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
