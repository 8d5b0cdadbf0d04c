"""`millrace webhooks`: list, create, describe, change, pause, resume and delete webhooks; test them, rotate secrets."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Verbose
from app.cli.log.topics import Json, Yes, created_topics
from app.cli.server_url import Url
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import emit_json, print_message, stdout_is_terminal
from app.cli.terminal.secret_input import read_secret_file
from app.cli.terminal.tables import emit_items, emit_table
from app.cli.webhooks import fields
from app.cli.webhooks.fields import fields_of

webhooks = typer.Typer(
    no_args_is_help=True,
    help="Manage webhooks, which post the records of topics to a URL: create, test, replay, delete them.",
)

Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Name of the webhook.")]
SecretFile = Annotated[
    str | None,
    typer.Option("--secret-file", metavar="FILE", help="File with the secret, `-` for standard input."),
]
SECRET_VARIABLE = "MILLRACE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable

_COLUMNS = ("name", "status", "url", "topics")


def webhook_path(webhook: str) -> str:
    """Return the path of a webhook."""
    return f"/v1/webhooks/{quote(webhook, safe='')}"


@webhooks.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the webhooks."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items("/v1/webhooks")
        emit_items(items, _COLUMNS, _row, "there are no webhooks yet", as_json=as_json)


@webhooks.command()
def create(
    webhook: Webhook,
    receiver_url: Annotated[str, typer.Argument(metavar="RECEIVER_URL", help="URL to which records are posted.")],
    url: Url,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="Topics whose records are posted.")
    ] = None,
    topic_pattern: fields.TopicPattern = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="OFFSET", help="First record: latest (default), earliest, -N, @TIME, offset."),
    ] = None,
    mode: fields.ModeOption = None,
    ordering: Annotated[
        fields.Ordering | None, typer.Option("--ordering", help="What is sent in order; by default each key.")
    ] = None,
    max_in_flight: fields.MaxInFlight = None,
    max_batch_records: fields.MaxBatch = None,
    filter_: fields.FilterOption = None,
    headers_file: fields.HeadersFile = None,
    secret_file: SecretFile = None,
    signature: Annotated[
        fields.Signature | None, typer.Option("--signature", help="hmac (default), or ed25519 with a public key.")
    ] = None,
    timeout_ms: fields.Timeout = None,
    rate_limit_per_s: fields.Rate = None,
    retry_delays_ms: fields.Delays = None,
    on_exhausted: fields.Exhausted = None,
    dead_letter_topic: fields.DeadLetters = None,
    description: fields.Description = None,
    paused: Annotated[bool, typer.Option("--paused", help="Send nothing until it is resumed.")] = False,
    verbose: Verbose = False,
) -> None:
    """Create a webhook, or check that it exists with these settings.

    The secret comes from --secret-file or the variable MILLRACE_WEBHOOK_SECRET; without both the server makes one.
    """
    secret = os.environ.get(SECRET_VARIABLE) or None if secret_file is None else read_secret_file(secret_file)
    given = fields_of(
        url=receiver_url,
        topics=topics or None,
        topic_pattern=topic_pattern,
        start=start,
        mode=mode,
        ordering=ordering,
        max_in_flight=max_in_flight,
        max_batch_records=max_batch_records,
        filter_=filter_,
        headers_file=headers_file,
        secret=secret,
        signature=signature,
        timeout_ms=timeout_ms,
        rate_limit_per_s=rate_limit_per_s,
        retry_delays_ms=retry_delays_ms,
        on_exhausted=on_exhausted,
        dead_letter_topic=dead_letter_topic,
        description=description,
        paused=paused or None,
    )
    with Client(url, verbose=verbose) as client:
        response = client.send("PUT", webhook_path(webhook), body=json.dumps(given).encode())
    created = response.json()
    if response.status_code == 201:
        print_message(f"created {' and '.join([webhook, *created_topics(created)])}")
        what = "public key" if created["signature"] == "ed25519" else "secret"
        print_message(f"the receiver verifies with the {what}, which is shown only now")
    else:
        print_message(f"{webhook} already exists")
    _show(created)


@webhooks.command()
def describe(webhook: Webhook, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a webhook's settings, its breaker, what it has delivered and what waits."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", webhook_path(webhook)).json()
    if not stdout_is_terminal() or as_json:
        emit_json(found)
        return
    counts = found.pop("counts")
    _emit_fields(found)
    print()
    emit_table(("records", "number"), list(counts.items()))


@webhooks.command()
def change(
    webhook: Webhook,
    url: Url,
    receiver_url: Annotated[str | None, typer.Option("--receiver-url", help="URL to which records are posted.")] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Topic whose records are posted; repeatable, replaces all.")
    ] = None,
    topic_pattern: fields.TopicPattern = None,
    mode: fields.ModeOption = None,
    max_in_flight: fields.MaxInFlight = None,
    max_batch_records: fields.MaxBatch = None,
    filter_: fields.FilterOption = None,
    headers_file: fields.HeadersFile = None,
    timeout_ms: fields.Timeout = None,
    rate_limit_per_s: fields.Rate = None,
    retry_delays_ms: fields.Delays = None,
    on_exhausted: fields.Exhausted = None,
    dead_letter_topic: fields.DeadLetters = None,
    description: fields.Description = None,
    reset: Annotated[
        list[str] | None,
        typer.Option("--reset", metavar="FIELD", help="Restore a default, such as that of filter. Repeatable."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Change a webhook's settings; what is being sent goes on with the settings before."""
    given = fields_of(
        url=receiver_url,
        topics=topics or None,
        topic_pattern=topic_pattern,
        mode=mode,
        max_in_flight=max_in_flight,
        max_batch_records=max_batch_records,
        filter_=filter_,
        headers_file=headers_file,
        timeout_ms=timeout_ms,
        rate_limit_per_s=rate_limit_per_s,
        retry_delays_ms=retry_delays_ms,
        on_exhausted=on_exhausted,
        dead_letter_topic=dead_letter_topic,
        description=description,
    )
    given |= dict.fromkeys(name.replace("-", "_") for name in reset or ())
    if not given:
        raise typer.BadParameter("give at least one setting to change; see --help")
    _patch(url, webhook, given, verbose=verbose)


@webhooks.command()
def pause(webhook: Webhook, url: Url, verbose: Verbose = False) -> None:
    """Send nothing more; records wait until the webhook is resumed."""
    _patch(url, webhook, {"paused": True}, verbose=verbose)


@webhooks.command()
def resume(webhook: Webhook, url: Url, verbose: Verbose = False) -> None:
    """Send again: resume a paused webhook, or enable a disabled one."""
    _patch(url, webhook, {"paused": False}, verbose=verbose)


@webhooks.command()
def delete(webhook: Webhook, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a webhook with its attempts; its topics stay."""
    with Client(url, verbose=verbose) as client:
        question = f"Delete the webhook {webhook}? Records that wait for it are not sent."
        client.confirm(webhook_path(webhook), question, yes=yes)
        client.send("DELETE", webhook_path(webhook))
    print_message(f"deleted {webhook}")


@webhooks.command("test")
def send_test(webhook: Webhook, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Send a signed ping now, also while the webhook is paused. Exit with 1 if the receiver does not accept it."""
    with Client(url, verbose=verbose, timeout_s=60.0) as client:
        attempt = client.send("POST", f"{webhook_path(webhook)}/test").json()["attempt"]
    if not stdout_is_terminal() or as_json:
        emit_json(attempt)
    else:
        shown = ("outcome", "status", "duration_ms", "message_id", "response_body")
        emit_table(("attempt", "value"), [(name, attempt[name]) for name in shown if attempt[name] is not None])
    if attempt["outcome"] != "delivered":
        raise CommandFailed(f"{attempt['outcome']}: {attempt['error']}")


@webhooks.command("rotate-secret")
def rotate_secret(
    webhook: Webhook,
    url: Url,
    secret_file: SecretFile = None,
    overlap_ms: Annotated[
        int, typer.Option("--overlap-ms", min=0, max=2_592_000_000, help="How long the old secret signs too.")
    ] = 86_400_000,
    verbose: Verbose = False,
) -> None:
    """Replace the secret; without --secret-file the server makes one. The new secret is shown only now."""
    given: dict[str, object] = {"overlap_ms": overlap_ms}
    if secret_file is not None:
        given["secret"] = read_secret_file(secret_file)
    with Client(url, verbose=verbose) as client:
        body = json.dumps(given).encode()
        emit_json(client.send("POST", f"{webhook_path(webhook)}/rotate_secret", body=body).json())


def _patch(url: str, webhook: str, change: dict[str, Any], *, verbose: bool) -> None:
    with Client(url, verbose=verbose) as client:
        changed = client.send("PATCH", webhook_path(webhook), body=json.dumps(change).encode()).json()
    if topics := created_topics(changed):
        print_message(f"created {' and '.join(topics)}")
    _show(changed)


def _show(webhook: dict[str, Any]) -> None:
    if stdout_is_terminal():
        _emit_fields(webhook)
    else:
        emit_json(webhook)


def _emit_fields(webhook: dict[str, Any]) -> None:
    """Write the fields that have a value, as a table of two columns."""
    rows = [(name, _cell(value)) for name, value in webhook.items() if value not in (None, "", [])]
    emit_table(("webhook", "value"), rows)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _row(webhook: dict[str, Any]) -> list[object]:
    topics = webhook["topic_pattern"] or ", ".join(webhook["topics"])
    return [webhook["name"], webhook["status"], webhook["url"], topics]
