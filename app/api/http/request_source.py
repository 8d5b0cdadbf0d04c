"""Checks of where a request comes from: the headers Host, Origin and Sec-Fetch-Site.

They protect a server without keys from web pages: from pages whose host name resolves to this server (DNS rebinding),
and from pages of other sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.types import Scope

from app.domain.access.loopback import is_loopback
from app.errors.http import BadRequest, CrossOriginRefused, WebhookRequestRefused, WrongHost

_SAFE = {"GET", "HEAD", "OPTIONS"}
_PROBES = {"/healthz", "/readyz"}
_SOURCE_DELIVERY = re.compile(r"/v1/sources/[^/]+/events")
"""Deliveries come from other services under any public name, and are verified by themselves."""
_FORWARDED_HEADERS = frozenset({b"forwarded", b"via", b"x-real-ip"}).union(
    b"x-forwarded-" + part
    for part in (b"for", b"host", b"proto", b"prefix", b"port", b"server", b"by", b"ssl", b"scheme")
)
_CHECKED_HEADERS = {b"host", b"origin", b"sec-fetch-site", b"millrace-webhook"} | _FORWARDED_HEADERS
_DEFAULT_PORTS = {"http": b":80", "https": b":443"}
_CACHED_HOSTS = 64
_SHOWN_CHARACTERS = 100

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::[0-9]*)?")
_PRIVATE_SUFFIXES = (".localhost", ".internal", ".local", ".svc")
"""Suffixes of names that only a local resolver knows, so that no web page can have such a host name."""
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")

_ENCODED_SLASH = (
    "%2F in the path would name another resource: names have only letters, digits and . _ -, and a plain / separates "
    "the parts of a path"
)
_WEBHOOK = (
    "this is an attempt of a webhook of a Millrace server, which must not drive the API: let the webhook post to a "
    "source (/v1/sources/{source}/events) or to a program of your own"
)
_HOST_CURE = (
    "add the name to MILLRACE_ALLOWED_HOSTS, or let the proxy send another Host; MILLRACE_CORS_ORIGINS allows web "
    "pages of other origins"
)
_ORIGIN_CURE = (
    "add the origin to MILLRACE_CORS_ORIGINS if you trust it; behind a proxy, let the proxy send the Host of the "
    "browser, and add that name to MILLRACE_ALLOWED_HOSTS"
)


class RequestSource:
    """The hosts that this server accepts, and the origins whose pages may write.

    Args:
        hosts: Names accepted in `Host` besides IP addresses and names that only a local resolver knows; `*.x` accepts
            all names under x, `*` all names.
        origins: Other origins whose web pages may call the API; `*` for all.
        needs_keys: Whether all requests need a key now. Then any Host is accepted unless `hosts` has names.
    """

    def __init__(
        self, hosts: Collection[str], origins: Collection[str], needs_keys: Callable[[], bool] = lambda: False
    ) -> None:
        self._needs_keys = needs_keys
        self._names = frozenset(host.lower() for host in hosts if not host.startswith("*"))
        self._suffixes = tuple(host[1:].lower() for host in hosts if host.startswith("*"))
        self._origins = frozenset(origins)
        self._accepts_host = lru_cache(_CACHED_HOSTS)(self._is_accepted)

    def check(self, scope: Scope) -> None:
        """Refuse a request for another host, a write from another origin, and an encoded slash in the path.

        A request for a name that is not a loopback one, or that a proxy has forwarded, is marked as `millrace.remote`.

        Raises:
            BadRequest, WrongHost, CrossOriginRefused, WebhookRequestRefused
        """
        raw_path = scope["raw_path"]
        if b"%" in raw_path and b"%2f" in raw_path.lower():
            raise BadRequest(_ENCODED_SLASH)
        if _SOURCE_DELIVERY.fullmatch(scope["path"]):
            return
        found = {name: value for name, value in scope["headers"] if name in _CHECKED_HEADERS}
        if b"millrace-webhook" in found:
            raise WebhookRequestRefused(_WEBHOOK)
        host, origin, site = found.get(b"host"), found.get(b"origin"), found.get(b"sec-fetch-site")
        if (host is not None and not _is_loopback(host)) or not _FORWARDED_HEADERS.isdisjoint(found):
            scope["millrace.remote"] = True
        if host is not None and not self._accepts_host(host) and not self._ignores_host(scope):
            raise WrongHost(f"this server does not accept the Host {_shown(host)}: {_HOST_CURE}")
        if origin is not None and scope["method"] not in _SAFE and not self._is_allowed(origin, host):
            message = f"pages of {_shown(origin)} must not write to the Host {_shown(host or b'')}: {_ORIGIN_CURE}"
            raise CrossOriginRefused(message)
        if site is not None and site.lower() == b"cross-site":
            self._check_cross_site(scope, origin, host)

    def _check_cross_site(self, scope: Scope, origin: bytes | None, host: bytes | None) -> None:
        """Refuse a request of another site's page to a loopback name, except a visit and an allowed origin.

        Raises:
            CrossOriginRefused
        """
        if not _is_loopback(host or b"") or "*" in self._origins:
            return
        if origin is not None and origin.decode("latin-1") in self._origins:
            return
        if scope["method"] == "GET" and (b"sec-fetch-mode", b"navigate") in scope["headers"]:
            return
        page = "pages of other sites" if origin is None else f"pages of {_shown(origin)}"
        raise CrossOriginRefused(f"{page} must not call the Host {_shown(host or b'')}: {_ORIGIN_CURE}")

    def _ignores_host(self, scope: Scope) -> bool:
        return _is_probe(scope) or (not self._names and not self._suffixes and self._needs_keys())

    def _is_allowed(self, origin: bytes, host: bytes | None) -> bool:
        text = origin.decode("latin-1")
        if text in self._origins or "*" in self._origins:
            return True
        try:
            url = urlsplit(text.lower())
        except ValueError:
            return False
        # A browser omits the default port from Origin; a proxy may add it to Host.
        own = b"" if host is None else host.lower().removesuffix(_DEFAULT_PORTS.get(url.scheme, b""))
        return bool(own) and url.netloc == own.decode("latin-1")

    def _is_accepted(self, host: bytes) -> bool:
        if "" in self._suffixes:
            return True
        name = _name_of(host)
        if name is None:
            return False
        if "." not in name or name.endswith(_PRIVATE_SUFFIXES) or _is_address(name):
            return True
        return name in self._names or any(name.endswith(suffix) for suffix in self._suffixes)


def _name_of(host: bytes) -> str | None:
    """Return the value of a Host header without the port, in lower case; None if it is not valid."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    if match is None:
        return None
    name: str = match["name"]
    return None if name.startswith("[") and not _is_address(name) else name


def _is_address(name: str) -> bool:
    try:
        address = ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return isinstance(address, IPv6Address) == name.startswith("[")


@lru_cache(_CACHED_HOSTS)
def _is_loopback(host: bytes) -> bool:
    name = _name_of(host)
    return name is not None and is_loopback(name)


def _is_probe(scope: Scope) -> bool:
    """Return whether the request is a health check: load balancers send names of their own."""
    return scope["method"] in {"GET", "HEAD"} and scope["path"] in _PROBES


def _shown(value: bytes) -> str:
    """Return a header's value for a message: printable ASCII, shortened."""
    return _UNPRINTABLE.sub("?", value.decode("latin-1"))[:_SHOWN_CHARACTERS] or "(empty)"
