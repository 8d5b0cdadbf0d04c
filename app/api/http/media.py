"""Media types of request bodies, and the choice of a media type and a content coding for an answer (RFC 9110 §12.5)."""

from __future__ import annotations

import re
from functools import lru_cache

from app.api.http.call import Call
from app.errors.http import UnsupportedMediaType

LINE_TYPES = {b"application/x-ndjson", b"application/jsonl", b"application/ndjson"}
"""JSON with one record per line."""

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')

_WEIGHT = re.compile(rb"0(\.[0-9]{0,3})?|1(\.0{0,3})?")

_JSON_COMMANDS = (
    "curl --json '{…}' URL, or with a curl before 7.82: curl -H 'Content-Type: application/json' -d '{…}' URL"
)
_FORM_HINTS = {
    b"application/x-www-form-urlencoded": (
        f"the body has a form type, which is what curl -d sends; use: {_JSON_COMMANDS}; "
        "a record of text: curl -H 'Content-Type: text/plain' -d 'text' URL"
    ),
    b"multipart/form-data": (
        f"the body is a form of several parts, which is what curl -F sends; use: {_JSON_COMMANDS}; "
        "a file as a record: curl -H 'Content-Type: application/octet-stream' --data-binary @file URL"
    ),
}
"""By the media types of HTML forms, commands that work."""


def media_type_of(call: Call) -> bytes:
    """Return the Content-Type without its parameters, in lower case; empty if the header is missing.

    Raises:
        UnsupportedMediaType: The header is empty, or was sent several times; a proxy may have merged the values.
    """
    value = call.header(b"content-type")
    return b"" if value is None else _media_type(value)


@lru_cache(64)
def _media_type(value: bytes) -> bytes:
    if b"," in _QUOTED.sub(b"", value):
        raise UnsupportedMediaType("Content-Type has several media types; send this header once, with one media type")
    media_type = value.partition(b";")[0].strip().lower()
    if not media_type:
        raise UnsupportedMediaType("Content-Type is empty; send a media type such as application/json, or no header")
    return media_type


def charset_of(call: Call) -> str:
    """Return the charset of the Content-Type in lower case; empty if there is none."""
    for part in (call.header(b"content-type") or b"").decode("latin-1").lower().split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip() == "charset":
            return value.strip().strip('"')
    return ""


@lru_cache(64)
def preferred(accept: bytes | None, offered: tuple[bytes, ...]) -> bytes:
    """Return the media type that an Accept header prefers; the first one if it accepts none, or is missing.

    The most specific range that matches a type gives its weight. Of equal weights, the type that a more specific range
    names counts, then the one that the header names first, then the one that is offered first.
    """
    if accept is None or accept == b"*/*":
        return offered[0]
    ranges = _weights(accept)
    best: tuple[float, int, int] | None = None
    chosen = offered[0]
    for media_type in offered:
        wildcards = (media_type, media_type.partition(b"/")[0] + b"/*", b"*/*")
        for specificity, name in zip((2, 1, 0), wildcards, strict=True):
            if (found := ranges.get(name)) is not None:
                weight, place = found
                rank = (weight, specificity, -place)
                if weight > 0 and (best is None or rank > best):
                    best, chosen = rank, media_type
                break
    return chosen


@lru_cache(64)
def content_coding(accepted: bytes | None, offered: tuple[bytes, ...]) -> bytes | None:
    """Return the content coding that an Accept-Encoding header prefers, or None for an uncompressed answer.

    Of equal weights, the coding that is offered first counts.
    """
    if accepted is None:
        return None
    codings = {name: weight for name, (weight, _) in _weights(accepted).items()}
    others = codings.get(b"*", 0.0)
    weight, chosen = 0.0, None
    for coding in offered:
        given = codings.get(coding, codings.get(b"x-" + coding, others))
        if given > weight:
            weight, chosen = given, coding
    return chosen if weight >= codings.get(b"identity", 0.0) else None


def _weights(header: bytes) -> dict[bytes, tuple[float, int]]:
    """Return the elements of a header such as Accept, in lower case, each with its weight and its place.

    Elements with an invalid weight are skipped; of repeated elements the first counts.
    """
    found: dict[bytes, tuple[float, int]] = {}
    for place, element in enumerate(_QUOTED.sub(b"", header).lower().split(b",")):
        name, *parameters = (part.strip() for part in element.split(b";"))
        weight = next((part.partition(b"=")[2] for part in parameters if part.startswith(b"q=")), b"1")
        if name and _WEIGHT.fullmatch(weight):
            found.setdefault(name, (float(weight), place))
    return found


def refuse_form(media_type: bytes) -> None:
    """Refuse the media types of HTML forms.

    Raises:
        UnsupportedMediaType: With commands that work.
    """
    if hint := _FORM_HINTS.get(media_type):
        raise UnsupportedMediaType(hint)


def require_json(media_type: bytes) -> None:
    """Refuse all media types but JSON; a missing Content-Type counts as JSON.

    Raises:
        UnsupportedMediaType: With a command that works.
    """
    refuse_form(media_type)
    if media_type and media_type != b"application/json" and not media_type.endswith(b"+json"):
        raise UnsupportedMediaType("the body must be application/json; use: curl --json '{…}' URL")
