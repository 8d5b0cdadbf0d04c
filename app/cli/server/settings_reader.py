"""Reads the settings for the commands that build the server, and reports what is wrong with them in plain words."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.settings import Settings

_PREFIX = "MILLRACE_"
_ENV_FILE = ".env"
_NOT_SETTINGS = {
    "URL",
    "API_KEY",
    "CA_FILE",
    "SOURCE_SECRET",
    "PUBLISH",
    "SEED",
    "CHAOS",
    "SOAK_S",
    "FUZZ",
    "UPDATE_DOCS",
}
"""Variables that others read: the client commands, `compose.yaml` and the tests."""
_OF_OTHERS = re.compile(r"TEST_.*|SERVICE_(HOST|PORT)(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?")
"""Variables of the tests, and those that Kubernetes sets for a Service named millrace."""
_SIMILARITY = 0.8
_SHOWN_CHARACTERS = 40
_UNITS = {"_ms": " of milliseconds", "_bytes": " of bytes"}
_OF_KUBERNETES = (
    "; Kubernetes sets this variable for a Service named millrace: set enableServiceLinks: false in the Pod, or give "
    "the Service another name"
)


def read_settings(options: Mapping[str, Any]) -> Settings:
    """Read the settings from the environment and `.env`; `options` take precedence.

    Raises:
        CommandFailed: Names each wrong setting and what it must be.
    """
    from app.settings import Settings

    logging.getLogger("dotenv.main").disabled = True  # `ignored_variables` reports the lines that cannot be read
    try:
        return Settings(**options)
    except UnicodeDecodeError:
        raise CommandFailed(f"the file {Path(_ENV_FILE).absolute()} is not UTF-8; save it in UTF-8") from None
    except OSError as error:
        raise CommandFailed(f"cannot read {Path(_ENV_FILE).absolute()}: {error.strerror}") from None
    except ValueError as error:
        if not hasattr(error, "errors"):
            raise
        found = [_describe(each, Settings.model_fields, options) for each in error.errors()]
    if len(found) == 1:
        raise CommandFailed(found[0])
    raise CommandFailed("\n  ".join([f"{len(found)} settings are wrong:", *found]))


def ignored_variables() -> list[str]:
    """Return a sentence for each variable that looks like a setting but has no effect."""
    from app.settings import Settings

    known = [name.upper() for name in Settings.model_fields]
    found = [_ignored(name, known, "") for name in sorted(os.environ)]
    with suppress(OSError, UnicodeDecodeError):  # `read_settings` has refused such a file
        found += _ignored_in_file(known)
    return [sentence for sentence in found if sentence]


def _describe(error: Mapping[str, Any], fields: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return what a setting must be. The value is shown only where it cannot contain a password."""
    name = str(error["loc"][0])
    field, value = fields[name], error["input"]
    shown = f"--{name.replace('_', '-')}" if name in options else _PREFIX + name.upper()
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return f"{shown} {cause}"
    given = printable(str(value))
    if len(given) > _SHOWN_CHARACTERS:
        given = f"{given[:_SHOWN_CHARACTERS]}…"
    hint = _OF_KUBERNETES if re.match(r"(tcp|udp)://", given) else ""
    return f"{shown} must be {_expected(name, field)}, and is '{given}'{hint}"


def _expected(name: str, field: Any) -> str:  # noqa: ANN401 - only the settings import pydantic
    """Return which values a setting accepts."""
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        *others, last = get_args(field.annotation)
        return f"{', '.join(others)} or {last}"
    unit = next((text for suffix, text in _UNITS.items() if name.endswith(suffix)), "")
    lower = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    upper = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    if upper is None:
        return f"a whole number{unit}" + ("" if lower is None else f", {lower} or more")
    return f"a whole number{unit} from {lower} to {upper}"


def _ignored_in_file(known: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each line of `.env` without an effect; an empty one for all others."""
    from dotenv.parser import parse_stream

    path = Path(_ENV_FILE)
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in parse_stream(file):
            if line.error or (line.value is None and (line.key or "").upper().startswith(_PREFIX)):
                yield f"line {line.original.line} of {_ENV_FILE} has no effect: write NAME=value"
            elif line.key is not None:
                yield _ignored(line.key, known, f" in {_ENV_FILE}")


def _ignored(variable: str, known: Iterable[str], place: str) -> str:
    """Return a sentence about a variable that is not a setting but looks like one; empty for all others."""
    given = variable.upper()
    if not given.startswith(_PREFIX):
        return _ignored_prefix(variable, known, place) if given.startswith("MIL") else ""
    name = given.removeprefix(_PREFIX)
    if name in {*known, *_NOT_SETTINGS} or _OF_OTHERS.fullmatch(name):
        return ""
    meant = _closest(name, known)
    advice = f"did you mean {_PREFIX}{meant}?" if meant else "the README lists all settings"
    return f"{printable(variable)}{place} is not a setting and has no effect; {advice}"


def _ignored_prefix(variable: str, known: Iterable[str], place: str) -> str:
    """Return a sentence about a variable whose prefix is misspelt, such as MILRACE_PORT."""
    from difflib import get_close_matches

    settings = [_PREFIX + name for name in known]
    meant = get_close_matches(variable.upper(), settings, n=1, cutoff=_SIMILARITY)
    return f"{printable(variable)}{place} has no effect; did you mean {meant[0]}?" if meant else ""


def _closest(name: str, known: Iterable[str]) -> str | None:
    """Return the setting that was probably meant: a similar name, else one that shares most words with it."""
    from difflib import get_close_matches

    if similar := get_close_matches(name, known, n=1):
        return similar[0]
    words = set(name.split("_"))
    shared = {each: len(words & set(each.split("_"))) for each in known}
    best = max(shared, key=lambda each: shared[each])
    return best if shared[best] else None
