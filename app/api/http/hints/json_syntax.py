"""Say what is wrong in a text that is not JSON."""

from __future__ import annotations

import re

_POSITION = re.compile(r"(?:JSON is malformed: )?(.{1,100}?)(?: \(byte (\d{1,10})\))?", re.DOTALL)
_WORD = re.compile(rb"[-+]?[A-Za-z_][A-Za-z_0-9]{0,40}")
_HALF_PAIR = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F][0-9a-fA-F]{2})")
_NUMBER = re.compile(rb"[-+]?\.?[0-9]")
_CURLY_QUOTES = ("\u2018".encode(), "\u2019".encode(), "\u201c".encode(), "\u201d".encode())
_SPACE = b" \t\r\n"

_DOUBLE_QUOTES = "JSON needs double quotes around names and strings"
_SHELL = (
    "; cmd.exe and PowerShell of Windows change quotes in arguments: "
    "write the JSON to a file, and send it with curl --json @file"
)
_LITERALS = {
    b"True": "true in JSON is written in lower case",
    b"TRUE": "true in JSON is written in lower case",
    b"False": "false in JSON is written in lower case",
    b"FALSE": "false in JSON is written in lower case",
    b"None": "JSON has no None; write null",
    b"Null": "null in JSON is written in lower case",
    b"NULL": "null in JSON is written in lower case",
    b"nil": "JSON has no nil; write null",
    b"undefined": "JSON has no undefined; write null, or leave the field out",
    b"NaN": "JSON has no NaN; write null or a string",
    b"nan": "JSON has no NaN; write null or a string",
    b"Infinity": "JSON has no Infinity; write null or a string",
    b"inf": "JSON has no Infinity; write null or a string",
}

_NUMBER_FORM = (
    "a number is written as 10, -1, 0.5 or 1e3: without leading zero or plus, with digits on both sides of the point"
)
_REASONS = {
    "trailing comma": "there is a comma before the closing bracket; remove it",
    "invalid escaped character": "a backslash in a string is written as two backslashes",
    "invalid number": _NUMBER_FORM,
    "expected ':'": "a colon is missing between a name and its value",
}
"""Hints by the start of the decoder's reason."""
_OTHER_REASONS = {
    "expected ','": "a comma or a closing bracket is missing",
    "expected '\"'": _DOUBLE_QUOTES,
}
"""Hints where the character at the place shows no mistake."""
_CHARACTERS = {
    b"\n": "a line break in a string is written as \\n",
    b"\r": "a line break in a string is written as \\r\\n",
    b"\t": "a tab in a string is written as \\t",
    b"<": "the text is XML or HTML",
    b",": "a value is missing before the comma",
    b"}": "a value is missing before the closing bracket",
    b"]": "a value is missing before the closing bracket",
    b"\xc2": "there is a no-break space or another character that JSON does not have",
}
"""Hints for a character that cannot begin a value."""


def describe_syntax_error(json: bytes, message: str, several: str) -> str:
    """Return where a text is not JSON, and what to change.

    Args:
        json: The text.
        message: Of the decoder, such as `JSON is malformed: invalid character (byte 3)`.
        several: What to do with several values after each other.
    """
    found = _POSITION.fullmatch(message)
    reason, position = (message, None) if found is None else (found[1], found[2])
    if position is None:
        return _unfinished(json) if "truncated" in reason else reason
    at = min(int(position), len(json))
    if reason == "trailing characters":
        at = max(at - 1, 0)
        return f"at byte {at}: {_trailing(json, at, several)}"
    return f"at byte {at}: {_hint(json, reason, at)}"


def _unfinished(json: bytes) -> str:
    if _HALF_PAIR.search(json):
        return "a string has half of a surrogate pair; write both halves, or the character itself"
    return "it ends too early; a quote or a bracket is not closed, or the end was not sent"


def _trailing(json: bytes, at: int, several: str) -> str:
    rest = json[at:]
    if rest[:1] in (b"}", b"]"):
        return "there is one closing bracket too many"
    if rest[:1] == b",":
        return "there is a comma after the end of the JSON; remove it, or put [ and ] around a list"
    return _comment(rest) or f"a second value follows the first; {several}"


def _hint(json: bytes, reason: str, at: int) -> str:
    """Return what to change at a place; the decoder's own reason if the place shows no usual mistake."""
    for start, hint in _REASONS.items():
        if reason.startswith(start):
            return hint
    rest = json[at : at + 50]
    found = _comment(rest) or _quotes(json, rest, at) or _word(rest) or _character(rest)
    return found or next((hint for start, hint in _OTHER_REASONS.items() if reason.startswith(start)), reason)


def _character(rest: bytes) -> str:
    """Return the hint for a character that cannot begin a value."""
    if rest[:1] in _CHARACTERS:
        return _CHARACTERS[rest[:1]]
    if rest[:1] < b" ":
        return "a control character in a string is written as an escape, such as \\u0001"
    return _NUMBER_FORM if _NUMBER.match(rest) else ""


def _comment(rest: bytes) -> str:
    return "JSON has no comments; remove it" if rest.startswith((b"//", b"/*", b"#", b"--")) else ""


def _quotes(json: bytes, rest: bytes, at: int) -> str:
    """Return the hint for quotes that are not those of JSON."""
    if rest[:1] == b"'" and at == len(json) - len(json.lstrip(_SPACE)) and json.rstrip(_SPACE).endswith(b"'"):
        return f"the JSON begins with a single quote{_SHELL}"
    if rest[:1] in (b"'", b"`"):
        return _DOUBLE_QUOTES
    if rest.startswith(_CURLY_QUOTES):
        return "there are curly quotes; write straight double quotes"
    if rest.startswith(b'\\"'):
        return f"there is a backslash before the quote{_SHELL}"
    return ""


def _word(rest: bytes) -> str:
    """Return the hint for a word without quotes."""
    if (word := _WORD.match(rest)) is None:
        return ""
    return _LITERALS.get(word[0].lstrip(b"+-"), f"{_DOUBLE_QUOTES}{_SHELL}")
