"""Addresses of clients, in the form in which access control lists compare them. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

_CACHED = 1_024


@lru_cache(_CACHED)
def canonical_address(text: str) -> str:
    """Return the shortest form of an IP address, an IPv4 address if it is mapped into IPv6; any other text as it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
