"""The resolver of the operating system: names that hang hold up neither other names nor the end of the process."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from threading import Event
from typing import TYPE_CHECKING

import pytest

from app.broker.outbound.resolver import ResolverFailed, SystemResolver, UnknownHost
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

HANGS_AND_ENDS = """
import asyncio, threading
from app.broker.outbound.resolver import ResolverFailed, SystemResolver

async def main():
    try:
        await SystemResolver(lambda host, port: threading.Event().wait() and [], 0.05).resolve("a.example", 443)
    except ResolverFailed as error:
        print(error)

asyncio.run(main())
"""


class Directory:
    """Finds addresses; the names that begin with `hangs` only at the end of the test."""

    def __init__(self) -> None:
        self.end = Event()
        self.asked: list[str] = []

    def find(self, host: str, _: int) -> list[str]:
        self.asked.append(host)
        if host.startswith("hangs"):
            self.end.wait()
        return ["192.0.2.1"]


@pytest.fixture
def directory() -> Iterator[Directory]:
    directory = Directory()
    yield directory
    directory.end.set()


def raising(error: Exception) -> SystemResolver:
    def find(_: str, __: int) -> list[str]:
        raise error

    return SystemResolver(find)


async def test_a_literal_address_is_its_own_answer() -> None:
    assert await SystemResolver().resolve("127.0.0.1", 443) == ["127.0.0.1"]


async def test_at_most_16_different_addresses_are_returned_in_their_order() -> None:
    many = [f"192.0.2.{number // 2}" for number in range(100)]

    assert await SystemResolver(lambda *_: many).resolve("a.example", 443) == [f"192.0.2.{n}" for n in range(16)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), UnknownHost),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), ResolverFailed),
        (socket.gaierror(socket.EAI_FAIL, "failed"), ResolverFailed),
        (UnicodeError("label too long"), UnknownHost),
    ],
)
async def test_an_unknown_name_is_told_from_a_resolver_that_fails(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await raising(error).resolve("a.example", 443)


async def test_names_that_hang_do_not_hold_up_another(directory: Directory) -> None:
    resolver = SystemResolver(directory.find, timeout_s=20)
    hanging = [asyncio.ensure_future(resolver.resolve(f"hangs-{number}", 443)) for number in range(63)]
    await pause(0)

    assert await resolver.resolve("a.example", 443) == ["192.0.2.1"]

    directory.end.set()
    assert await asyncio.gather(*hanging) == [["192.0.2.1"]] * 63


async def test_requests_for_a_name_that_hangs_share_a_look_up(directory: Directory) -> None:
    resolver = SystemResolver(directory.find, timeout_s=0.02)

    for _ in range(5):
        with pytest.raises(ResolverFailed, match=r"the resolver did not answer within 0\.02 s"):
            await resolver.resolve("hangs", 443)

    assert directory.asked == ["hangs"]


async def test_a_name_waits_while_too_many_others_hang(directory: Directory) -> None:
    resolver = SystemResolver(directory.find, timeout_s=0.05)
    hanging = [resolver.resolve(f"hangs-{number}", 443) for number in range(128)]
    await asyncio.gather(*hanging, return_exceptions=True)

    with pytest.raises(ResolverFailed, match="too many names"):
        await resolver.resolve("a.example", 443)

    directory.end.set()
    patient = SystemResolver(directory.find, timeout_s=20)
    assert await patient.resolve("hangs-0", 443) == ["192.0.2.1"]


@pytest.mark.parametrize("domain", ["bad.example", "bad.co.uk"])
async def test_a_domain_whose_names_hang_does_not_hold_up_another(directory: Directory, domain: str) -> None:
    resolver = SystemResolver(directory.find, timeout_s=20)
    hanging = [asyncio.ensure_future(resolver.resolve(f"hangs-{number}.a.{domain}", 443)) for number in range(500)]
    await pause(0)

    for host in ("good.example", "good.co.uk"):
        assert await resolver.resolve(host, 443) == ["192.0.2.1"]
    assert len(directory.asked) == 4 + 2

    directory.end.set()
    assert await asyncio.gather(*hanging) == [["192.0.2.1"]] * 500


class Dns:
    """Finds addresses, or fails, as the test says."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.broken: set[str] = set()
        self.resolver = SystemResolver(self.find, 20, lambda: self.now)

    def find(self, host: str, _: int) -> list[str]:
        if host in self.broken:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return ["127.0.0.1"] if host == "localhost" else ["192.0.2.1"]

    async def outcome(self, host: str, *, after_s: float = 1) -> type[Exception] | None:
        self.now += after_s
        try:
            await self.resolver.resolve(host, 443)
        except (ResolverFailed, UnknownHost) as error:
            return type(error)
        return None


async def test_a_name_that_fails_while_others_are_resolved_is_the_fault_of_its_receiver() -> None:
    dns = Dns()
    dns.broken = {"bad.example"}
    assert await dns.outcome("a.example") is None

    assert await dns.outcome("bad.example") is ResolverFailed, "the resolver may have failed just now"
    assert await dns.outcome("bad.example") is ResolverFailed
    assert await dns.outcome("a.example") is None
    assert await dns.outcome("bad.example") is UnknownHost

    assert await dns.outcome("bad.example", after_s=60) is ResolverFailed, "the evidence is older than a minute"


async def test_while_no_name_is_resolved_the_fault_is_that_of_the_resolver() -> None:
    dns = Dns()
    assert await dns.outcome("a.example") is None
    dns.broken = {"a.example", "b.example"}

    for _ in range(3):
        assert await dns.outcome("a.example") is ResolverFailed
        assert await dns.outcome("b.example") is ResolverFailed
        assert await dns.outcome("localhost") is None


async def test_a_name_that_hangs_while_others_are_resolved_is_the_fault_of_its_receiver(directory: Directory) -> None:
    resolver = SystemResolver(directory.find, timeout_s=0.05)
    with pytest.raises(ResolverFailed):
        await resolver.resolve("hangs.example", 443)
    await resolver.resolve("a.example", 443)
    with pytest.raises(UnknownHost, match="the name servers of the host do not answer"):
        await resolver.resolve("hangs.example", 443)


def test_a_name_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS_AND_ENDS], capture_output=True, timeout=30, check=True)

    assert done.stdout == b"the resolver did not answer within 0.05 s\n"
