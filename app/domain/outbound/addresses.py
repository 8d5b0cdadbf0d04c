"""IP addresses that a request to another server may connect to. Pure.

The rule for IPv6 is inverted: only global unicast is allowed, because `ipaddress.is_global` is true for addresses that
lead back into the network (NAT64, IPv4-compatible, site-local, multicast). Addresses that contain an IPv4 address are
judged by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NEVER: tuple[Network, ...] = tuple(
    ip_network(each)
    for each in (
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "fe80::/10",
        "fd00:42::42/128",  # Scaleway
        "fd00:c1::a9fe:a9fe/128",  # Oracle
        "fd00:ec2::/32",  # AWS: metadata, names, time, credentials of pods
        "fd20:ce::254/128",  # Google
    )
)
"""Refused also inside an allowed network."""

_INTERNAL_V4 = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_INTERNAL_V6 = tuple(IPv6Network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_TRANSLATED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""Mapped addresses and NAT64: packets go to the IPv4 address in the last bits, and nowhere else."""
_ENDS_WITH_IPV4 = (IPv6Network("::/96"), IPv6Network("::ffff:0:0:0/96"))
"""IPv4-compatible addresses, and those of SIIT."""
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_IPV4_BITS = 0xFFFF_FFFF
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The third quarter of an address that tunnels to the IPv4 address in the last (RFC 5214)."""


class Refusal(NamedTuple):
    """Why an address is refused.

    Attributes:
        allowable: Whether an operator can allow the address by its network.
    """

    address: str
    allowable: bool


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse networks such as `10.0.0.0/8`.

    Raises:
        ValueError: A text is not a network.
    """
    return tuple(ip_network(each) for each in texts)


def refusal_of(text: str, allowed: Iterable[Network]) -> Refusal | None:
    """Return why an address is refused, or None if it may be used.

    Args:
        text: A literal address, as a resolver returns it.
        allowed: Networks inside which addresses may be used, except link-local and metadata addresses.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return Refusal(text, allowable=False)
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return Refusal(text, allowable=False)
    if any(each in network for network in _NEVER for each in (address, *_judged(address))):
        return Refusal(text, allowable=False)
    if is_allowed(text, allowed) or all(map(_is_public, _judged(address))):
        return None
    return Refusal(text, allowable=True)


def is_allowed(text: str, allowed: Iterable[Network]) -> bool:
    """Return whether a literal address, or the IPv4 address that it stands for, is in one of the allowed networks."""
    address = ip_address(text)
    networks = tuple(allowed)
    return _is_in(address, networks) or all(_is_in(each, networks) for each in _judged(address))


def _judged(address: Address) -> tuple[Address, ...]:
    """Return the addresses to which packets to this address can go."""
    if not isinstance(address, IPv6Address):
        return (address,)
    number = int(address)
    low = IPv4Address(number & _IPV4_BITS)
    if any(address in network for network in _TRANSLATED):
        return (low,)
    return (address, *_tunnel_ends(address))


def _tunnel_ends(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses inside an address to which a tunnel or a translator can lead."""
    number = int(address)
    if number >> 32 & _IPV4_BITS in _ISATAP or any(address in network for network in _ENDS_WITH_IPV4):
        return [IPv4Address(number & _IPV4_BITS)]
    if address in _6TO4:
        return [IPv4Address(number >> 80 & _IPV4_BITS)]
    if address in _TEREDO:
        return [IPv4Address(number >> 64 & _IPV4_BITS), IPv4Address(~number & _IPV4_BITS)]
    if address in _NAT64_LOCAL:
        return [IPv4Address(bits) for bits in _embedded(number)]
    return []


def _embedded(number: int) -> list[int]:
    """Return the IPv4 addresses that a translator with a prefix of 48, 56, 64 or 96 bits reads (RFC 6052).

    Bits 64 to 71 from the left are skipped, except with 96.
    """
    without_gap = number >> 64 << 56 | number & (1 << 56) - 1
    return [number & _IPV4_BITS, *(without_gap >> 120 - length - 32 & _IPV4_BITS for length in (48, 56, 64))]


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _INTERNAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _INTERNAL_V6)
