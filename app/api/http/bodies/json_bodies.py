"""Decode JSON bodies and JSON lines; errors name an index and a field."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import msgspec

from app.api.http.hints.json_syntax import describe_syntax_error
from app.api.http.validation_errors import invalid_request_of
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest, InvalidRequest

BOM = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which programs of Windows write before a text."""

_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_MAX_SHORT_BYTES = 256
"""Up to this length, counting colons shows at less cost that a flat object has no name twice."""
_BOM_OF_LINE = re.compile(rb"^\xef\xbb\xbf", re.MULTILINE)
_MEMBER_NAME = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_MEMBER_END = re.compile(rb"[ \t\r\n]*[,}]")


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


def without_bom(body: bytes) -> bytes:
    """Return a body without the byte order mark at its start."""
    return body.removeprefix(BOM)


def decode_json(
    decoder: msgspec.json.Decoder[Any], body: bytes, *, noun: str = "body", several: str = "send one"
) -> Any:  # noqa: ANN401 - the decoder's type
    """Decode UTF-8 JSON; a byte order mark at the start is skipped.

    Args:
        decoder: Of the expected type.
        body: The JSON.
        noun: What an error calls `body`.
        several: What an error suggests if several values follow each other.

    Raises:
        BadRequest: The body is not JSON.
        InvalidRequest: The JSON does not have the decoder's type; with index and field.
    """
    body = without_bom(body)
    if not body or body.isspace():
        raise BadRequest(f"the {noun} is empty; send JSON")
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the {noun} is not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise invalid_request_of(error, "field", decoder.type) from None
    except msgspec.DecodeError as error:
        hint = describe_syntax_error(body, str(error), several)
        raise BadRequest(f"the {noun} is not valid JSON: {hint}") from None


def decode_lines(decoder: msgspec.json.Decoder[Any], body: bytes, max_records: int) -> list[Any]:
    """Decode one JSON value per line; blank lines are skipped and not counted.

    A byte order mark at the start of a line is skipped: joined files have one before each file.

    Raises:
        BadRequest, InvalidRequest: As `decode_json`, with the index of the line; or the number of lines is
            not from 1 to `max_records`.
    """
    if BOM in body:
        body = _BOM_OF_LINE.sub(b"", body)
    lines = [match.group() for match in islice(_LINE.finditer(body), max_records + 1)]
    check_records(len(lines), max_records)
    decode = decoder.decode
    try:
        if body.isascii():
            return [decode(line) for line in lines]
    except (RecursionError, msgspec.DecodeError):
        """Decode again below, line by line, to name the first line that fails."""
    return [_decode_line(index, decoder, line, body) for index, line in enumerate(lines)]


def _decode_line(index: int, decoder: msgspec.json.Decoder[Any], line: bytes, body: bytes) -> Any:  # noqa: ANN401 - the decoder's type
    try:
        return decode_json(decoder, line, noun="line", several="send each value on its own line")
    except BrokerError as error:
        entry = {"detail": error.detail}
        if isinstance(errors := error.facts.get("errors"), list):
            entry = errors[0]
        start = next(islice(_LINE.finditer(body), index, None)).start()
        number = body.count(b"\n", 0, start) + 1
        message = f"record {index}, line {number}: {error.detail}"
        raise type(error).at(index, entry.get("field"), entry["detail"], message=message) from None


def check_names(body: bytes) -> None:
    """Refuse a JSON object with two members of one name; objects inside are not checked.

    Args:
        body: A valid JSON object, without a byte order mark.

    Raises:
        BadRequest: With the name.
    """
    colons = body.count(b":") if len(body) <= _MAX_SHORT_BYTES else -1
    if colons == 1:
        return
    members = _members.decode(body)
    if not members or len(members) == colons:
        return
    spare = len(body) - sum(map(len, members)) - sum(map(len, members.values())) - 4 * len(members) - 1
    # A further member would take at least the four characters around its name, the name, and one of a value.
    if spare >= 5 + min(map(len, members)):
        _check_spare(body, members)


def _check_spare(body: bytes, members: dict[str, msgspec.Raw]) -> None:
    """Refuse a member that is not in `members`: the decoder keeps the place of the first of a name, and the last value.

    Raises:
        BadRequest: With the name.
    """
    position = body.index(b"{") + 1
    for name, raw in members.items():
        value = bytes(raw)
        found = _MEMBER_NAME.match(body, position)
        if found is None or (given := _string.decode(found[1])) != name:
            raise _duplicate(name if found is None else given)
        end = None
        if body.startswith(value, found.end()):
            end = _MEMBER_END.match(body, found.end() + len(value))
        if end is None:
            raise _duplicate(name)
        position = end.end()
    if (further := _MEMBER_NAME.match(body, position)) is not None:
        raise _duplicate(_string.decode(further[1]))


def _duplicate(name: str) -> BadRequest:
    return BadRequest.at(None, name, "is given twice", message=f"the JSON has two members named {name}; send one")


def check_records(count: int, max_records: int) -> None:
    """Refuse a request with no records or too many.

    Raises:
        InvalidRequest: With the bounds.
    """
    if not 1 <= count <= max_records:
        raise InvalidRequest.at(None, "records", f"must be 1 to {max_records} records")
