"""Media types of request bodies."""

from __future__ import annotations

import re
from functools import lru_cache

from app.api.http.call import Call
from app.errors.http import UnsupportedMediaType

LINE_TYPES = {b"application/x-ndjson", b"application/jsonl", b"application/ndjson"}
"""JSON with one record per line."""

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')

_FORM_TYPES = {b"application/x-www-form-urlencoded", b"multipart/form-data"}

_CURL_HINT = (
    "the body has a form type, which is what curl -d sends; use: curl --json '{…}' URL, "
    "or with a curl before 7.82: curl -H 'Content-Type: application/json' -d '{…}' URL"
)


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


def refuse_form(media_type: bytes) -> None:
    """Refuse the media types of HTML forms.

    Raises:
        UnsupportedMediaType: With commands that work.
    """
    if media_type in _FORM_TYPES:
        raise UnsupportedMediaType(_CURL_HINT)


def require_json(media_type: bytes) -> None:
    """Refuse all media types but JSON; a missing Content-Type counts as JSON.

    Raises:
        UnsupportedMediaType: With a command that works.
    """
    refuse_form(media_type)
    if media_type and media_type != b"application/json" and not media_type.endswith(b"+json"):
        raise UnsupportedMediaType("the body must be application/json; use: curl --json '{…}' URL")
