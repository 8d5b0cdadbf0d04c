"""The URL of the server: where it comes from, and what is wrong with one that leads to no server."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.terminal.failure import ERROR, CommandFailed
from app.cli.terminal.output import print_message, printable

if TYPE_CHECKING:
    import httpx2

_LARGEST_PORT = 65_535
_OTHER_URLS = re.compile(r"MILLRACE_(URL|DATABASE_URL|TEST_.*)")
"""Variables that are not a misspelt MILLRACE_URL."""
_SIMILARITY = 0.9
_SCHEME = re.compile(r"(?:([a-z][a-z0-9+.-]*):?//?|//)(?=.)|(https?):(?=\D)", re.IGNORECASE)
_REST = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])?(?P<port>:[0-9]{1,5})?(?P<path>/[^\s?#]*)?")
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_SOURCE_PLACE = re.compile(r" \(_ssl\.c:\d+\)")

_OF_TLS = {
    "illegal request line": "the answer is not HTTP",
    "disconnected without": "the server closed the connection",
}
"""What a server that speaks TLS does with a request without it."""


def default_url() -> str:
    """Return the URL of a server on this machine, at the port that `serve` listens on by default.

    Warn of variables that were probably meant to be MILLRACE_URL: another server would be used without notice.

    Raises:
        CommandFailed: MILLRACE_PORT is not a port.
    """
    url = local_url()
    for name in sorted(os.environ):
        if _may_mean_url(name):
            print_message(f"{printable(name)} has no effect; did you mean MILLRACE_URL? Using {url}")
    return url


def local_url() -> str:
    """Return the URL of a server on this machine, at the port in MILLRACE_PORT.

    Raises:
        CommandFailed: MILLRACE_PORT is not a port.
    """
    port = os.environ.get("MILLRACE_PORT") or "8400"
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > _LARGEST_PORT:
        raise CommandFailed("MILLRACE_PORT is not a port; set it to a number, or name the server with MILLRACE_URL")
    return f"http://127.0.0.1:{port}"


def _may_mean_url(name: str) -> bool:
    given = name.upper()
    if not given.startswith("MIL") or _OTHER_URLS.fullmatch(name):
        return False
    if given.startswith("MILLRACE_") and given.endswith("URL"):
        return True
    from difflib import SequenceMatcher

    return SequenceMatcher(None, given, "MILLRACE_URL").ratio() > _SIMILARITY


Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="MILLRACE_URL",
        help="URL of the server.",
        default_factory=default_url,
        show_default="http://127.0.0.1:8400, or the port in MILLRACE_PORT",
    ),
]


def check_url(given: str, parsed: httpx2.URL | None) -> None:
    """Refuse what is not the URL of a server.

    Args:
        given: The URL as the user wrote it.
        parsed: The same; None if it is not a URL at all.

    Raises:
        CommandFailed: With the URL that was probably meant.
    """
    is_url = parsed is not None and parsed.scheme in {"http", "https"} and parsed.host and "%" not in parsed.host
    if is_url and parsed is not None and (parsed.port or 0) <= _LARGEST_PORT and not (parsed.query or parsed.fragment):
        return
    meant = _meant_url(given)
    remedy = f"did you mean {meant}?" if meant else "use one such as http://127.0.0.1:8400"
    raise CommandFailed(f"{given!r} is not the URL of a server: {remedy}", ERROR)


def _meant_url(given: str) -> str | None:
    """Return the URL that a text without scheme, or with quotes around it, probably means."""
    text = given.strip().strip("'\"`<>“”‘’").strip()
    scheme = _SCHEME.match(text)
    rest = _REST.fullmatch(text[scheme.end() :] if scheme else text)
    if rest is None:
        return None
    if not rest["host"] and not rest["port"]:
        return None
    host, port, path = rest["host"] or "127.0.0.1", rest["port"] or "", rest["path"] or ""
    if host.isdigit() and not port:
        host, port = "127.0.0.1", f":{host}"
    if port and int(port[1:]) > _LARGEST_PORT:
        return None
    secure = scheme is not None and (scheme[1] or scheme[2] or "").lower() == "https"
    return f"{'https' if secure else 'http'}://{host}{port}{path.rstrip('/')}"


def describe_failure(url: str, error: Exception) -> tuple[str, str]:
    """Return why no answer came from a server, and what to do; "" if there is no advice.

    Args:
        url: Of the server.
        error: The error of the HTTP client.
    """
    kind = type(error).__name__
    if "Timeout" in kind:
        return "no answer in time", _start_hint(kind)
    reason = _SOURCE_PLACE.sub("", _ERRNO.sub("", str(error))) or "the connection was lost"
    scheme, _, rest = url.partition("://")
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return "the server speaks HTTP without TLS", f"use http://{rest}"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        reason = reason.rpartition("] ")[2]
        return reason, "set MILLRACE_CA_FILE to a file with the certificate of its authority"
    if scheme.lower() == "http" and (told := next((_OF_TLS[text] for text in _OF_TLS if text in reason), None)):
        return told, f"if the server speaks TLS, use https://{rest}"
    if "not known" in reason or "name resolution" in reason or "No address" in reason:
        return f"{reason[:1].lower()}{reason[1:]}", "check the name in --url or MILLRACE_URL"
    return reason, _start_hint(kind)


def _start_hint(kind: str) -> str:
    return "start a server with millrace serve, or name one with --url or MILLRACE_URL" if "Connect" in kind else ""
