"""Options that set the fields of a webhook, and the request body that they make."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from app.cli.terminal.secret_input import read_secret_file


class Mode(StrEnum):
    """What an attempt carries."""

    RECORD = "record"
    ENVELOPE = "envelope"
    ENVELOPE_BATCH = "envelope-batch"
    CLOUDEVENTS_BINARY = "cloudevents-binary"
    CLOUDEVENTS_STRUCTURED = "cloudevents-structured"
    CLOUDEVENTS_BATCH = "cloudevents-batch"


class Ordering(StrEnum):
    """Whether records of one key or one partition are sent in order, one at a time."""

    KEY = "key"
    PARTITION = "partition"
    NONE = "none"


class Signature(StrEnum):
    """How attempts are signed."""

    HMAC = "hmac"
    ED25519 = "ed25519"


class OnExhausted(StrEnum):
    """What becomes of a record after its last attempt."""

    DEAD_LETTER = "dead_letter"
    PAUSE = "pause"
    DROP = "drop"


TopicPattern = Annotated[
    str | None, typer.Option("--topic-pattern", metavar="GLOB", help="Topics by glob, instead of names.")
]
ModeOption = Annotated[Mode | None, typer.Option("--mode", help="What an attempt carries; by default record.")]
MaxInFlight = Annotated[int | None, typer.Option("--max-in-flight", min=1, max=64, help="Attempts at once.")]
MaxBatch = Annotated[
    int | None, typer.Option("--max-batch-records", min=1, max=100, help="Records of an attempt in a batch mode.")
]
FilterOption = Annotated[
    str | None,
    typer.Option("--filter", metavar="JSON", help='Which records are sent: \'{"value":"/type","equals":"paid"}\'.'),
]
HeadersFile = Annotated[
    str | None,
    typer.Option(
        "--headers-file", metavar="FILE", help="File with static headers, one `Name: value` a line; `-` for stdin."
    ),
]
Timeout = Annotated[
    int | None, typer.Option("--timeout-ms", min=1_000, max=30_000, help="Limit of an attempt; by default 15,000.")
]
Rate = Annotated[int | None, typer.Option("--rate-limit-per-s", min=1, max=100_000, help="Most attempts in a second.")]
Delays = Annotated[
    str | None,
    typer.Option("--retry-delays-ms", metavar="5000,300000", help="Delay after each failed attempt; '' for none."),
]
Exhausted = Annotated[
    OnExhausted | None, typer.Option("--on-exhausted", help="What becomes of a record after its last attempt.")
]
DeadLetters = Annotated[
    str | None,
    typer.Option("--dead-letter-topic", metavar="TOPIC", help="Copy exhausted records there (dead_letter)."),
]
Description = Annotated[str | None, typer.Option("--description", help="What the webhook is for.")]


def fields_of(
    *,
    filter_: str | None = None,
    headers_file: str | None = None,
    retry_delays_ms: str | None = None,
    on_exhausted: OnExhausted | None = None,
    dead_letter_topic: str | None = None,
    **others: object,
) -> dict[str, Any]:
    """Return the given fields as the request has them. A dead-letter topic implies `on_exhausted` dead_letter.

    Raises:
        BadParameter: An option cannot be read.
    """
    fields: dict[str, Any] = dict(others)
    fields["filter"] = None if filter_ is None else _json(filter_)
    fields["headers"] = None if headers_file is None else _headers(read_secret_file(headers_file))
    fields["retry_delays_ms"] = None if retry_delays_ms is None else _delays(retry_delays_ms)
    if dead_letter_topic is not None and on_exhausted is None:
        on_exhausted = OnExhausted.DEAD_LETTER
    fields |= {"on_exhausted": on_exhausted, "dead_letter_topic": dead_letter_topic}
    return {name: value for name, value in fields.items() if value is not None}


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter("--filter must be a JSON object; see the guide of webhooks for its grammar")
    return found


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise typer.BadParameter("--headers-file must have lines such as `Authorization: Bearer abc`")
        headers[name.strip()] = value.strip()
    return headers


def _delays(text: str) -> list[int]:
    try:
        return [int(each) for each in filter(None, text.split(","))]
    except ValueError:
        raise typer.BadParameter("--retry-delays-ms must be milliseconds such as 5000,300000") from None
