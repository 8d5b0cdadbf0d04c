"""`millrace acls`: add, list and remove entries of the access control lists."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Verbose
from app.cli.log.topics import Json, Yes
from app.cli.server_url import Url
from app.cli.terminal.output import confirm, emit_json, print_message, stdout_is_terminal
from app.cli.terminal.tables import emit_items, emit_table

acls = typer.Typer(
    no_args_is_help=True, help="Manage access control lists, as Kafka has them: add, list and remove entries."
)

_COLUMNS = ("acl_id", "principal", "permission", "operation", "type", "name", "pattern", "host")
_CLUSTER = "cluster"


class Operation(StrEnum):
    """What a principal does with a resource."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"
    DELETE = "delete"
    ALTER = "alter"
    DESCRIBE = "describe"
    ALL = "all"


class ResourceType(StrEnum):
    """What an entry is about."""

    TOPIC = "topic"
    GROUP = "group"
    QUEUE = "queue"
    WEBHOOK = "webhook"
    SOURCE = "source"
    PRODUCER = "producer"
    POSITION = "position"
    PIPELINE = "pipeline"
    CONNECTOR = "connector"
    SUBJECT = "subject"
    CLUSTER = "cluster"


@acls.command("list")
def list_(
    url: Url,
    principal: Annotated[
        str | None, typer.Option("--principal", help="Only the entries of this principal, and those of `*`.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the entries, in the order of their creation."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items("/v1/acls")
        shown = (item for item in items if principal is None or item["principal"] in {principal, "*"})
        emit_items(shown, _COLUMNS, _row, "there are no entries", as_json=as_json)


@acls.command()
def add(
    principal: Annotated[str, typer.Argument(metavar="PRINCIPAL", help="Name of the principal; `*` stands for all.")],
    operation: Annotated[
        Operation, typer.Argument(help="read, write, delete and alter allow describe too.", metavar="OPERATION")
    ],
    resource_type: Annotated[ResourceType, typer.Argument(help="Such as topic, group or cluster.", metavar="TYPE")],
    url: Url,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the resource; `*` stands for all. Not for cluster.")
    ] = None,
    prefixed: Annotated[
        bool, typer.Option("--prefixed", help="NAME is a prefix: all resources whose names begin with it.")
    ] = False,
    deny: Annotated[bool, typer.Option("--deny", help="Deny, which wins over every allow.")] = False,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Only from this IP address.")] = "*",
    verbose: Verbose = False,
) -> None:
    """Allow a principal an operation on a resource, or deny it: `millrace acls add billing read topic orders`."""
    if name is None and resource_type is not ResourceType.CLUSTER:
        raise typer.BadParameter(f"name the {resource_type.value}, or * for all (in quotes)", param_hint="NAME")
    entry = {
        "principal": principal,
        "permission": "deny" if deny else "allow",
        "operation": operation.value,
        "resource": {
            "type": resource_type.value,
            "name": _CLUSTER if name is None else name,
            "pattern": "prefixed" if prefixed else "literal",
        },
        "host": host,
    }
    with Client(url, verbose=verbose) as client:
        response = client.send("POST", "/v1/acls", body=json.dumps(entry).encode())
    stored = response.json()
    verb = "added" if response.status_code == 201 else "there already is"
    print_message(f"{verb} {stored['acl_id']}")
    if stdout_is_terminal():
        emit_table(_COLUMNS, [_row(stored)])
    else:
        emit_json(stored)


@acls.command()
def remove(
    acl_ids: Annotated[list[str], typer.Argument(metavar="ACL_ID...", help="Ids of the entries, as list shows them.")],
    url: Url,
    yes: Yes = False,
    verbose: Verbose = False,
) -> None:
    """Remove entries. They lose their effect within five seconds, on every node."""
    with Client(url, verbose=verbose) as client:
        confirm(f"Remove {', '.join(acl_ids)}? Removing a deny may allow something.", yes=yes)
        for acl_id in acl_ids:
            client.send("DELETE", f"/v1/acls/{quote(acl_id, safe='')}")
            print_message(f"removed {acl_id}")


def _row(entry: dict[str, Any]) -> list[object]:
    resource = entry["resource"]
    shown = {**entry, "type": resource["type"], "name": resource["name"], "pattern": resource["pattern"]}
    return [shown[column] for column in _COLUMNS]
