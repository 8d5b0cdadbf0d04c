"""`millrace sources`: list, create, describe, delete, rotate secrets, and list refused deliveries."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from operator import itemgetter
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Verbose
from app.cli.log.topics import Json, Yes, created_topics
from app.cli.server_url import Url
from app.cli.terminal.output import emit_json, print_message, stdout_is_terminal
from app.cli.terminal.secret_input import read_secret_file
from app.cli.terminal.tables import emit_items, emit_table

sources = typer.Typer(
    no_args_is_help=True,
    help="Manage sources, which take in the webhooks of other services: create, list, rotate, delete them.",
)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the source.")]
SecretFile = Annotated[
    str | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="File with the secret, `-` for standard input; by default the variable MILLRACE_SOURCE_SECRET.",
    ),
]

KeyFrom = Annotated[
    str | None, typer.Option("--key-from", help="Where keys come from: a JSON pointer, or header:NAME.")
]
Headers = Annotated[
    list[str] | None, typer.Option("--header", help="Request header that becomes a record header. Repeatable.")
]
DedupeFrom = Annotated[
    str | None, typer.Option("--dedupe-from", help="Where the id of a delivery is: a JSON pointer, or header:NAME.")
]
VerifyTokenFile = Annotated[
    str | None,
    typer.Option("--verify-token-file", metavar="FILE", help="File with the verify_token of Meta, `-` for stdin."),
]

_COLUMNS = ("name", "topic", "scheme", "key_from", "delivery_url")
_REFUSAL_COLUMNS = ("refused_at_ms", "reason", "address", "size_bytes")
_VARIABLE = "MILLRACE_SOURCE_SECRET"


class Scheme(StrEnum):
    """How the deliveries of a source are verified."""

    github = "github"
    stripe = "stripe"
    slack = "slack"
    shopify = "shopify"
    twilio = "twilio"
    meta = "meta"
    standard = "standard"
    hmac = "hmac"
    basic = "basic"
    bearer = "bearer"
    none = "none"


def source_path(source: str) -> str:
    """Return the path of a source."""
    return f"/v1/sources/{quote(source, safe='')}"


@sources.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the sources."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items("/v1/sources")
        emit_items(items, _COLUMNS, _row, "there are no sources yet", as_json=as_json)


@sources.command()
def create(
    source: Source,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Topic to which the deliveries are appended.")],
    url: Url,
    scheme: Annotated[Scheme, typer.Option("--scheme", help="The sender, or how its deliveries are verified.")],
    secret_file: SecretFile = None,
    key_from: KeyFrom = None,
    header: Headers = None,
    dedupe_from: DedupeFrom = None,
    verify_token_file: VerifyTokenFile = None,
    verify: Annotated[
        str | None,
        typer.Option("--verify", metavar="JSON", help='More fields of verify, such as \'{"header":"X-Signature"}\'.'),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Create a source, or check that it exists with these settings."""
    fields = {"scheme": scheme.value, **_fields(verify)}
    if scheme is not Scheme.none:
        fields["secret"] = _secret(secret_file)
    if verify_token_file is not None:
        fields["verify_token"] = read_secret_file(verify_token_file)
    settings = {
        "topic": topic,
        "verify": fields,
        "key_from": key_from,
        "headers": header or None,
        "dedupe_from": dedupe_from,
    }
    body = json.dumps({name: value for name, value in settings.items() if value is not None}).encode()
    with Client(url, verbose=verbose) as client:
        response = client.send("PUT", source_path(source), body=body)
    created = response.json()
    if response.status_code == 201:
        print_message(f"created {' and '.join([source, *created_topics(created)])}")
    else:
        print_message(f"{source} already exists")
    if created.get("token"):
        print_message("the delivery_url contains a token, and is shown only now")
    _show(created)


@sources.command()
def change(
    source: Source,
    url: Url,
    topic: Annotated[str | None, typer.Option("--topic", help="Topic to which the deliveries are appended.")] = None,
    key_from: KeyFrom = None,
    header: Headers = None,
    dedupe_from: DedupeFrom = None,
    verbose: Verbose = False,
) -> None:
    """Change a source; what is not named stays, and '' restores a default. `rotate` changes the secret."""
    given = {"topic": topic, "key_from": key_from, "headers": header or None, "dedupe_from": dedupe_from}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("name what changes: --topic, --key-from, --header or --dedupe-from")
    body = json.dumps({name: None if value in ("", [""]) else value for name, value in changes.items()}).encode()
    with Client(url, verbose=verbose) as client:
        changed = client.send("PATCH", source_path(source), body=body).json()
    for created in created_topics(changed):
        print_message(f"created {created}")
    _show(changed)


@sources.command()
def describe(source: Source, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a source's configuration, without its secrets."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", source_path(source)).json()
    if not stdout_is_terminal() or as_json:
        emit_json(found)
    else:
        emit_table(("source", "value"), list(found.items()))


@sources.command()
def delete(source: Source, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a source; its topic stays."""
    with Client(url, verbose=verbose) as client:
        client.confirm(source_path(source), f"Delete the source {source}? Its sender will get 404.", yes=yes)
        client.send("DELETE", source_path(source))
    print_message(f"deleted {source}")


@sources.command()
def rotate(
    source: Source,
    url: Url,
    secret_file: SecretFile = None,
    overlap_ms: Annotated[
        int, typer.Option("--overlap-ms", min=0, max=2_592_000_000, help="How long the old secret is accepted too.")
    ] = 86_400_000,
    verbose: Verbose = False,
) -> None:
    """Replace the secret of a source."""
    body = json.dumps({"secret": _secret(secret_file), "overlap_ms": overlap_ms}).encode()
    with Client(url, verbose=verbose) as client:
        _show(client.send("POST", f"{source_path(source)}/rotate_secret", body=body).json())


@sources.command()
def refusals(source: Source, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the last refused deliveries of a source, the last one first."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items(f"{source_path(source)}/refusals")
        emit_items(
            items, _REFUSAL_COLUMNS, itemgetter(*_REFUSAL_COLUMNS), f"{source} has refused nothing", as_json=as_json
        )


def _secret(path: str | None) -> str:
    """Return the secret of a file or of the environment: an argument would be in the list of processes."""
    if path is None:
        if not (secret := os.environ.get(_VARIABLE, "")):
            raise typer.BadParameter(f"give the secret with --secret-file or in the variable {_VARIABLE}")
        return secret
    return read_secret_file(path)


def _fields(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise typer.BadParameter("--verify must be a JSON object")
    return fields


def _show(source: dict[str, Any]) -> None:
    if stdout_is_terminal():
        emit_table(_COLUMNS, [_row(source)])
    else:
        emit_json(source)


def _row(source: dict[str, Any]) -> list[object]:
    return [source["verify"]["scheme"] if name == "scheme" else source[name] for name in _COLUMNS]
