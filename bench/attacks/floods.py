"""The attacks: each opens many connections and sends what takes more memory than it costs to send.

Run one as `python -m bench.attacks.floods NAME PORT CONNECTIONS SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
import struct
import sys
from collections.abc import Awaitable, Callable
from functools import cache

MIB = 1024 * 1024
TOPIC = "/v1/topics/attacked/records"
_ADDRESSES = 16

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Flood:
    """The connections of an attack to one server, from one address of this machine."""

    def __init__(self, port: int, seconds: float, source: str = "127.0.0.1") -> None:
        self.port = port
        self.seconds = seconds
        self.statuses: dict[str, int] = {}
        self._source = source

    def from_address(self, source: str) -> Flood:
        """Return the part of this attack that comes from another address."""
        part = Flood(self.port, self.seconds, source)
        part.statuses = self.statuses
        return part

    async def connect(self, *, small_window: bool = False) -> Connection:
        """Open a connection; with a small window, the kernel buffers little of what is not read."""
        return await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(self._source, 0), limit=4096 if small_window else 65536
        )

    async def send(self, head: str, body: bytes = b"", *, read: bool = True) -> None:
        """Send one request on a connection of its own, and read the answer."""
        reader, writer = await self.connect()
        try:
            writer.write(f"{head}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            if read:
                await self.read_status(reader)
        finally:
            writer.close()

    async def read_status(self, reader: asyncio.StreamReader) -> None:
        """Count the status of an answer."""
        line = await reader.readline()
        status = line.split()[1].decode() if line.count(b" ") > 1 else "closed"
        self.statuses[status] = self.statuses.get(status, 0) + 1

    async def stay(self) -> None:
        """Keep the connections open until the attack ends."""
        await asyncio.sleep(self.seconds)


def post(path: str = TOPIC, *fields: str) -> str:
    """Return the head of a POST request without its length."""
    return "\r\n".join([f"POST {path} HTTP/1.1", *fields])


JSON_POST = post(TOPIC, "Content-Type: application/json")
GZIP_POST = post(TOPIC, "Content-Type: application/json", "Content-Encoding: gzip")


@cache
def zeros() -> bytes:
    """Return 10,000 records of 3.3 KB."""
    record = b'{"value":"' + b"0" * 3300 + b'"}'
    return b'{"records":[' + b",".join([record] * 10_000) + b"]}"


@cache
def tiny_records() -> bytes:
    """Return 2.7 million records, many more than a request may have."""
    return b'{"records":[' + b",".join([b'{"value":0}'] * 2_700_000) + b"]}"


@cache
def packed(make: Callable[[], bytes]) -> bytes:
    """Return a compressed body."""
    return gzip.compress(make(), 9)


async def gzip_records(flood: Flood, _: int) -> None:
    """Send a body of 32 KB that inflates to 32 MiB of valid records."""
    await flood.send(GZIP_POST, packed(zeros))


async def gzip_tiny_records(flood: Flood, _: int) -> None:
    """Send a small body that inflates to millions of records."""
    await flood.send(GZIP_POST, packed(tiny_records))


async def gzip_in_chunks(flood: Flood, _: int) -> None:
    """Send a compressed body in chunks that states a size of 0."""
    reader, writer = await flood.connect()
    body = packed(zeros)[:-4] + struct.pack("<I", 0)
    writer.write(f"{GZIP_POST}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for start in range(0, len(body), 512):
        piece = body[start : start + 512]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    writer.write(b"0\r\n\r\n")
    await flood.read_status(reader)
    writer.close()


async def unfinished_uploads(flood: Flood, _: int) -> None:
    """Send 31 of 32 MiB, and stop."""
    reader, writer = await flood.connect()
    writer.write(f"{JSON_POST}\r\nHost: localhost\r\nContent-Length: {32 * MIB}\r\n\r\n".encode())
    with contextlib.suppress(OSError):
        for _ in range(31):
            writer.write(b" " * MIB)
            await writer.drain()
        await flood.stay()
    await flood.read_status(reader)
    writer.close()


async def small_uploads(flood: Flood, _: int) -> None:
    """Send 60 KiB of a body, and stop."""
    _, writer = await flood.connect()
    writer.write(f"{JSON_POST}\r\nHost: localhost\r\nContent-Length: 65000\r\n\r\n".encode() + b" " * 60_000)
    await flood.stay()
    writer.close()


async def half_heads(flood: Flood, _: int) -> None:
    """Send 30 KiB of a head, and stop."""
    _, writer = await flood.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + (b"x-a: " + b"b" * 1000 + b"\r\n") * 30)
    await flood.stay()
    writer.close()


async def pipelined_heads(flood: Flood, _: int) -> None:
    """Send 90 requests with heads of 16 KiB behind a long poll."""
    _, writer = await flood.connect()
    fields = b"host: localhost\r\n" + (b"x-a: " + b"b" * 1000 + b"\r\n") * 15
    writer.write(b"GET /v1/topics/attacked/partitions/0/records?offset=latest&max_wait_ms=60000 HTTP/1.1\r\n" + fields)
    writer.write(b"\r\n" + (b"GET / HTTP/1.1\r\n" + fields + b"\r\n") * 90)
    await flood.stay()
    writer.close()


async def endless_chunks(flood: Flood, _: int) -> None:
    """Send chunks of one byte without an end."""
    reader, writer = await flood.connect()
    writer.write(f"{JSON_POST}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    block = b"1\r\n \r\n" * 10_000
    with contextlib.suppress(OSError):
        async with asyncio.timeout(flood.seconds):
            while True:
                writer.write(block)
                await writer.drain()
    await flood.read_status(reader)
    writer.close()


async def long_integers(flood: Flood, number: int) -> None:
    """Send an integer of 30 MB, where the server reads a value, a time or an offset."""
    digits = b"1" * (30 * MIB)
    match number % 3:
        case 0:
            await flood.send(JSON_POST, b'{"value":%b}' % digits)
        case 1:
            await flood.send(JSON_POST, b'{"value":1,"timestamp_ms":%b}' % digits)
        case _:
            lines = post(TOPIC + "?lines=values&timestamp_from=/t", "Content-Type: application/x-ndjson")
            await flood.send(lines, b'{"t":%b}' % digits)


async def many_members(flood: Flood, _: int) -> None:
    """Send 10,000 values of 290 members, whose key the server looks up."""
    value = json.dumps({f"m{member}": member for member in range(290)}).encode()
    lines = post(TOPIC + "?lines=values&key_from=/m289", "Content-Type: application/x-ndjson")
    await flood.send(lines, b"\n".join([value] * 8_000))


async def one_byte_lines(flood: Flood, _: int) -> None:
    """Send 10,000 values in 20 KB."""
    await flood.send(post(TOPIC + "?lines=values", "Content-Type: application/x-ndjson"), b"0\n" * 10_000)


async def blank_lines(flood: Flood, _: int) -> None:
    """Send 32 MiB of blank lines."""
    await flood.send(post(TOPIC, "Content-Type: application/x-ndjson"), b"\n" * (31 * MIB))


async def deep_json(flood: Flood, _: int) -> None:
    """Send 32 MiB of brackets in one value."""
    await flood.send(JSON_POST, b'{"value":[' + b"[]," * (10 * MIB) + b"[]]}")


async def transactions(flood: Flood, _: int) -> None:
    """Send transactions with 10,000 parts."""
    part = b'{"topic":"attacked","records":[{"value":0}]}'
    body = b'{"produce":[' + b",".join([part] * 10_000) + b"]}"
    await flood.send(post("/v1/transactions", "Content-Type: application/json"), body)


async def abandoned_pages(flood: Flood, _: int) -> None:
    """Ask for a page of 9 MB, and leave."""
    reader, writer = await flood.connect()
    writer.write(b"GET %b?max_records=10000&max_bytes=9000000 HTTP/1.1\r\nHost: localhost\r\n\r\n" % TOPIC.encode())
    await reader.read(1)
    writer.close()


async def unread_pages(flood: Flood, _: int) -> None:
    """Ask for 90 pages of 9 MB on one connection, and read nothing."""
    _, writer = await flood.connect(small_window=True)
    request = b"GET %b?max_records=10000&max_bytes=9000000 HTTP/1.1\r\nHost: localhost\r\n\r\n" % TOPIC.encode()
    writer.write(request * 90)
    await flood.stay()
    writer.close()


async def unread_streams(flood: Flood, _: int) -> None:
    """Open a stream of all records, and read nothing."""
    _, writer = await flood.connect(small_window=True)
    writer.write(b"GET %b?follow=true&offset=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n" % TOPIC.encode())
    await flood.stay()
    writer.close()


async def large_minimum(flood: Flood, _: int) -> None:
    """Wait for more bytes than there are."""
    path = b"/v1/topics/attacked/partitions/0/records"
    query = b"max_records=10000&max_bytes=33554432&min_bytes=33554432&max_wait_ms=3000"
    _, writer = await flood.connect(small_window=True)
    writer.write(b"GET %b?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (path, query))
    await flood.stay()
    writer.close()


async def polls(flood: Flood, number: int) -> None:
    """Poll the largest page as a group of its own, and do not read it."""
    body = b'{"topics":["attacked"],"max_records":10000,"max_bytes":33554432}'
    await flood.send(post(f"/v1/groups/g{number}/members/m/poll", "Content-Type: application/json"), body)


async def acquires(flood: Flood, number: int) -> None:
    """Acquire as many records as possible, and do not read them."""
    body = b'{"topic":"attacked","max_records":2000,"max_bytes":33554432}'
    await flood.send(post(f"/v1/queues/q{number}/acquire", "Content-Type: application/json"), body)


async def joins(flood: Flood, number: int) -> None:
    """Join a group of its own."""
    body = b'{"member_id":"m","topics":["attacked"]}'
    await flood.send(post(f"/v1/groups/j{number}/members", "Content-Type: application/json"), body)


async def idle_connections(flood: Flood, _: int) -> None:
    """Connect, and send nothing."""
    reader, writer = await flood.connect()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(flood.seconds):
            await flood.read_status(reader)
    writer.close()


async def parked_reads(flood: Flood, _: int) -> None:
    """Wait for a record that does not come."""
    path = "/v1/topics/attacked/partitions/0/records?offset=latest&max_wait_ms=60000"
    await parked(flood, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def parked_acquires(flood: Flood, number: int) -> None:
    """Wait for a record of an empty queue."""
    body = '{"topic":"empty","max_wait_ms":60000}'
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    await parked(flood, f"POST /v1/queues/e{number % 10}/acquire HTTP/1.1\r\n{fields}\r\n\r\n{body}")


async def parked(flood: Flood, request: str) -> None:
    """Send a request that waits, until the attack ends."""
    reader, writer = await flood.connect()
    writer.write(request.encode())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(flood.seconds):
            await flood.read_status(reader)
    writer.close()


async def mix(flood: Flood, number: int) -> None:
    """Do one of the attacks that hold memory, from one of 16 addresses: no limit of one address protects."""
    parts = (
        gzip_records,
        unfinished_uploads,
        unread_pages,
        parked_reads,
        small_uploads,
        unread_streams,
        polls,
        half_heads,
        parked_acquires,
        idle_connections,
        pipelined_heads,
        large_minimum,
    )
    part = parts[number // _ADDRESSES % len(parts)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(flood.seconds):
            await part(flood.from_address(f"127.0.1.{number % _ADDRESSES}"), number)


Attack = Callable[[Flood, int], Awaitable[None]]

ATTACKS: dict[str, tuple[Attack, int]] = {
    attack.__name__: (attack, connections)
    for attack, connections in (
        (gzip_records, 100),
        (gzip_tiny_records, 100),
        (gzip_in_chunks, 100),
        (unfinished_uploads, 100),
        (small_uploads, 2_000),
        (half_heads, 2_000),
        (pipelined_heads, 500),
        (endless_chunks, 20),
        (long_integers, 60),
        (many_members, 30),
        (one_byte_lines, 300),
        (blank_lines, 50),
        (deep_json, 50),
        (transactions, 50),
        (abandoned_pages, 100),
        (unread_pages, 100),
        (unread_streams, 3_000),
        (large_minimum, 100),
        (polls, 50),
        (acquires, 50),
        (joins, 2_000),
        (idle_connections, 11_000),
        (parked_reads, 5_500),
        (parked_acquires, 3_000),
        (mix, 3_000),
    )
}
"""Each attack, and its connections at once."""


async def run(name: str, port: int, connections: int, seconds: float) -> dict[str, int]:
    """Run an attack, and return how many answers had each status."""
    flood = Flood(port, seconds)
    attack, _ = ATTACKS[name]
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(attack(flood, number) for number in range(connections)), return_exceptions=True)
    return flood.statuses


def main() -> None:
    """Run the attack that the command line names, and print the statuses."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    name, port, connections, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(run(name, int(port), int(connections), float(seconds)))))


if __name__ == "__main__":
    main()
