"""Which addresses a request to another server may connect to."""

from __future__ import annotations

import pytest

from app.domain.outbound.addresses import is_allowed, parse_networks, refusal_of

PUBLIC = ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"]
INTERNAL = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.255.254",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "ff02::1",
    "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:10.0.0.1",
    "fd00::5efe:1.1.1.1",
]
NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fe80::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2606:4700::5efe:169.254.169.254",
    "fd00:ec2::23",
    "fd00:ec2::253",
    "fd00:ec2:0:1::1",
    "fd00:42::42",
    "fd00:c1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2002:a83f:8110::",
    "::a9fe:a9fe",
    "::169.254.169.254",
    "::ffff:0:a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:0:a9:fea9:fe00:0",
    "64:ff9b:1:a9:fe:a9fe::",
    "2001:0:a9fe:a9fe::1",
    "2001::5601:5601",
]
NO_ADDRESS = [
    "",
    "localhost",
    "127.1",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "2130706433",
    "[::1]",
    "1.2.3.4.",
    "::1%lo",
    "fe80::1%1",
]
ALL = parse_networks(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_used(address: str) -> None:
    assert refusal_of(address, ()) is None


@pytest.mark.parametrize("address", INTERNAL)
def test_an_internal_address_may_be_used_only_if_its_network_is_allowed(address: str) -> None:
    assert refusal_of(address, ()) == (address, True)
    assert refusal_of(address, parse_networks(["11.0.0.0/8", "2a00::/16"])) == (address, True)
    assert refusal_of(address, ALL) is None


@pytest.mark.parametrize("address", NEVER)
def test_link_local_and_metadata_addresses_may_never_be_used(address: str) -> None:
    assert refusal_of(address, ()) == (address, False)
    assert refusal_of(address, ALL) == (address, False)


@pytest.mark.parametrize("address", ["fd00:ec2::23", "fd00:42::42", "fd00:c1::a9fe:a9fe", "fd20:ce::254"])
def test_metadata_addresses_inside_an_allowed_network_of_ones_own_may_never_be_used(address: str) -> None:
    assert refusal_of(address, parse_networks(["fd00::/8"])) == (address, False)
    assert refusal_of("fd00:abc::1", parse_networks(["fd00::/8"])) is None


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_no_plain_address_may_never_be_used(text: str) -> None:
    assert refusal_of(text, ALL) == (text, False)


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "64:ff9b::a01:203", "10.1.2.3"])
def test_an_ipv4_address_inside_an_ipv6_address_is_allowed_with_its_network(address: str) -> None:
    allowed = parse_networks(["10.0.0.0/8"])

    assert refusal_of(address, allowed) is None
    assert is_allowed(address, allowed)
    assert not is_allowed(address, parse_networks(["10.2.0.0/16"]))


def test_an_allowed_tunnel_end_does_not_allow_the_address_of_the_tunnel() -> None:
    assert refusal_of("fd00::5efe:10.0.0.1", parse_networks(["10.0.0.0/8"])) == ("fd00::5efe:10.0.0.1", True)


def test_a_network_with_bits_of_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        parse_networks(["10.0.0.1/8"])
