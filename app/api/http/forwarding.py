"""Requests through reverse proxies: the path prefix, and X-Forwarded headers of proxies that the settings name."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.types import Scope

_CACHED_PEERS = 64
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")


class Forwarding:
    """How the proxies in front of this server forward requests.

    Args:
        root_path: The path prefix under which the proxies publish this server, such as `/millrace`; empty without one.
        proxies: Addresses and networks of the proxies whose X-Forwarded headers count.

    Attributes:
        is_proxy: Returns whether an address is one of them.
    """

    def __init__(self, root_path: str, proxies: Collection[str]) -> None:
        self._root_path = root_path
        self._prefix = root_path.encode()
        self._networks = [ip_network(proxy) for proxy in proxies]
        self.is_proxy = lru_cache(_CACHED_PEERS)(self._is_in_networks)

    def apply(self, scope: Scope) -> Scope:
        """Return the request as its client sent it: host, scheme, address, and the path without the prefix.

        A proxy may send the path with or without the prefix.
        """
        changes: dict[str, Any] = {"millrace.root_path": self._root_path}
        client = scope.get("client")
        if self._networks and client is not None and self.is_proxy(client[0]):
            changes |= self._forwarded(scope)
            scope["millrace.client"] = changes.get("client")  # for the access log, which has the scope of the server
        path, root_path = scope["path"], self._root_path
        if root_path and (path == root_path or path.startswith(f"{root_path}/")):
            changes["path"] = path[len(root_path) :] or "/"
            changes["millrace.bare_root"] = path == root_path
            changes["raw_path"] = scope["raw_path"].removeprefix(self._prefix) or b"/"
        return {**scope, **changes}

    def client_of(self, scope: Scope) -> str:
        """Return the address of the client: what a trusted proxy says, else the peer's."""
        client = scope.get("client")
        if client is None:
            return ""
        if self._networks and self.is_proxy(client[0]):
            client = self._forwarded(scope).get("client") or client
        address, _ = client
        return str(address)

    def _forwarded(self, scope: Scope) -> dict[str, Any]:
        """Return what the X-Forwarded headers change; of several values, the nearest proxy sent the last one."""
        given = {name: value for name, value in scope["headers"] if name.startswith(b"x-forwarded-")}
        changes: dict[str, Any] = {}
        if host := _last(given.get(b"x-forwarded-host")):
            others = [field for field in scope["headers"] if field[0] != b"host"]
            changes["headers"] = [*others, (b"host", host)]
        if scheme := _last(given.get(b"x-forwarded-proto")):
            changes["scheme"] = scheme.decode("latin-1").lower()
        prefix = _last(given.get(b"x-forwarded-prefix")).decode("latin-1").rstrip("/")
        if _ROOT_PATH.fullmatch(prefix):
            changes["millrace.root_path"] = prefix
        for address in reversed(given.get(b"x-forwarded-for", b"").split(b",")):
            if text := address.strip().decode("latin-1"):
                changes["client"] = (text, 0)
                if not self.is_proxy(text):
                    break
        return changes

    def _is_in_networks(self, address: str) -> bool:
        try:
            peer = ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._networks)


def root_path_of(scope: Scope) -> str:
    """Return the path prefix under which the client reaches this server; empty without one."""
    root_path: str = scope.get("millrace.root_path", "")
    return root_path


def is_bare_root(scope: Scope) -> bool:
    """Return whether the path of the request is the prefix without a slash at its end."""
    return bool(scope.get("millrace.bare_root"))


def _last(value: bytes | None) -> bytes:
    return (value or b"").rpartition(b",")[2].strip()
