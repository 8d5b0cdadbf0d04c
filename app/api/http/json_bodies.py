"""Decode JSON bodies and JSON lines; errors name an index and a field."""

from __future__ import annotations

import re
from itertools import accumulate, islice
from typing import Any

import msgspec

from app.api.http.validation_errors import invalid_request_of, plain
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest, InvalidRequest

_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_CHANGE = [1 if byte in b"[{" else -1 for byte in range(256)]


def decode_json(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:  # noqa: ANN401 - the decoder's type
    """Decode UTF-8 JSON.

    Raises:
        BadRequest: The body is not JSON.
        InvalidRequest: The JSON does not have the decoder's type; with index and field.
    """
    if not body or body.isspace():
        raise BadRequest("the body is empty; send JSON")
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise invalid_request_of(error, "field", decoder.type) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {plain(str(error))}") from None


def decode_lines(decoder: msgspec.json.Decoder[Any], body: bytes, max_records: int) -> list[Any]:
    """Decode one JSON value per line; blank lines are skipped and not counted.

    Raises:
        BadRequest, InvalidRequest: As `decode_json`, with the index of the line; or the number of lines is
            not from 1 to `max_records`.
    """
    lines = [match.group() for match in islice(_LINE.finditer(body), max_records + 1)]
    check_records(len(lines), max_records)
    decode = decoder.decode
    try:
        if body.isascii():
            return [decode(line) for line in lines]
    except (RecursionError, msgspec.DecodeError):
        """Decode again below, line by line, to name the first line that fails."""
    return [_decode_line(index, decoder, line) for index, line in enumerate(lines)]


def _decode_line(index: int, decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:  # noqa: ANN401 - the decoder's type
    try:
        return decode_json(decoder, line)
    except BrokerError as error:
        entry = {"detail": error.detail}
        if isinstance(errors := error.facts.get("errors"), list):
            entry = errors[0]
        message = f"record {index}: {error.detail}"
        raise type(error).at(index, entry.get("field"), entry["detail"], message=message) from None


def check_records(count: int, max_records: int) -> None:
    """Refuse a request with no records or too many.

    Raises:
        InvalidRequest: With the bounds.
    """
    if not 1 <= count <= max_records:
        raise InvalidRequest.at(None, "records", f"must be 1 to {max_records} records")


def is_deeper(json: bytes, levels: int) -> bool:
    """Return whether JSON is nested more than `levels` deep.

    The JSON must be valid: the time for invalid JSON is not bounded by its length.
    """
    if len(json) <= levels or json.count(b"[") + json.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", json).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_DEPTH_CHANGE.__getitem__, brackets)), default=0) > levels
