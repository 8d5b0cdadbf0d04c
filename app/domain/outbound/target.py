"""URLs of receivers: what of them is accepted. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote, urlsplit

MAX_URL_LENGTH = 2_048

_DEFAULT_PORTS = {"https": 443, "http": 80}
_LOWEST_PORT = 1_024
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_KEPT = "/?:@!$&'()*+,;=%~-._[]"


class Target(NamedTuple):
    """The parts of a receiver's URL.

    Attributes:
        host: A name in ASCII and lower case, or a literal address without brackets.
        path: Path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_literal(self) -> bool:
        """Return whether the host is an address."""
        return _is_address(self.host)

    @property
    def tls_name(self) -> str:
        """Return the name that the certificate must have: certificates have no dot at the end."""
        return self.host.rstrip(".")

    @property
    def host_header(self) -> str:
        """Return the value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Parse the URL of a receiver.

    Raises:
        ValueError: The URL is refused; the message completes "url …".
    """
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"must be at most {MAX_URL_LENGTH} characters")
    if _UNSAFE.search(url):
        raise ValueError("must have no spaces, backslashes or control characters; percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
        name = parts.hostname or ""
    except ValueError:
        raise ValueError("is not a URL; give one such as https://example.com/hooks") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("must begin with https://")
    if "@" in parts.netloc:
        raise ValueError("must have no user and no password; put them into a header")
    if "#" in url:
        raise ValueError("must have no fragment (#…)")
    port = _DEFAULT_PORTS[scheme] if port is None else port
    if port not in _DEFAULT_PORTS.values() and port < _LOWEST_PORT:
        raise ValueError("must have the port 443, 80, or one from 1024")
    path = quote(parts.path or "/", safe=_KEPT)
    query = f"?{quote(parts.query, safe=_KEPT)}" if parts.query else ""
    return Target(scheme, _host(name), port, path + query)


def _host(name: str) -> str:
    if ":" in name:
        if not _is_address(name) or "%" in name:
            raise ValueError("has a host that is neither a name nor an address")
        return str(ip_address(name))
    try:
        host = name if name.isascii() else _encoded(name)
    except UnicodeError:
        raise ValueError("has a host that is not a valid name") from None
    host = host.lower()
    if not _HOST.fullmatch(host):
        raise ValueError("has a host that is neither a name nor an address")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) and not _is_address(host):
        raise ValueError("must have an IPv4 address as four decimal numbers, such as 192.0.2.1")
    return host


def _encoded(name: str) -> str:
    """Return a name with other letters than ASCII as DNS has it."""
    import idna  # noqa: PLC0415 - its tables are large, and few names need them

    return idna.encode(name, uts46=True).decode()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
