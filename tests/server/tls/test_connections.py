"""What is written to and read from a TLS connection keeps its order and its limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from app.server.tls.connections import TlsProtocol, TlsTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

PART_BYTES = 65_536


class Connection(asyncio.Transport):
    """A TLS transport, and a socket that takes `room` bytes more; what it does not take is buffered."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: TlsProtocol | None = None
        self.room = 0
        self.sent = bytearray()
        self.buffer = bytearray()
        self.is_paused = False
        self.is_closed = False
        self.high = self.low = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high, self.low = high or 0, low or 0

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        assert not self.is_paused
        self.buffer += data
        self._flush()

    def take(self, size: int) -> None:
        """Let the socket take so many bytes more."""
        self.room += size
        self._flush()

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def _flush(self) -> None:
        assert self.protocol is not None
        taken = self.buffer[: self.room]
        del self.buffer[: len(taken)]
        self.sent += taken
        self.room -= len(taken)
        if not self.is_paused and len(self.buffer) >= self.high:
            self.is_paused = True
            self.protocol.pause_writing()
        elif self.is_paused and len(self.buffer) <= self.low:
            self.is_paused = False
            self.protocol.resume_writing()


class Application(asyncio.Protocol):
    """Records what is received and whether it may write; closes the connection on `end`."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        if data.startswith(b"end"):
            self.transport.close()

    def pause_writing(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_writing(self) -> None:
        assert self.is_paused
        self.is_paused = False


def connected() -> tuple[Connection, Application]:
    connection, application = Connection(), Application()
    connection.protocol = TlsProtocol(application)
    connection.protocol.connection_made(connection)
    return connection, application


SIZES = st.sampled_from([1, 1_000, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 100_000, 300_000])


@given(st.lists(st.tuples(st.sampled_from(["write", "take"]), SIZES), max_size=30))
def test_bytes_keep_their_order_and_the_writer_is_paused_while_much_waits(steps: Iterable[tuple[str, int]]) -> None:
    connection, application = connected()
    written = bytearray()
    for number, (step, size) in enumerate(steps):
        if step == "write":
            data = bytes([number]) * size
            written += data
            application.transport.write(data)
        else:
            connection.take(size)
        waiting = application.transport.get_write_buffer_size()
        assert waiting == len(written) - len(connection.sent)
        assert connection.get_write_buffer_size() <= 2 * PART_BYTES
        assert application.is_paused or waiting <= HIGH_WATER_LIMIT + 2 * PART_BYTES

    application.transport.close()
    assert application.transport.is_closing()
    while not connection.is_closed:
        connection.take(PART_BYTES)
    connection.take(len(written))
    assert connection.sent == written


def test_after_a_close_nothing_is_written_and_an_abort_drops_what_waits() -> None:
    connection, application = connected()
    transport = application.transport
    transport.write(bytes(500_000))
    transport.close()
    transport.write(b"late")
    assert transport.get_write_buffer_size() == 500_000
    assert not connection.is_closing()

    transport.abort()

    assert connection.is_closing()
    assert transport.get_write_buffer_size() == connection.get_write_buffer_size()
    assert not transport.can_write_eof()


@pytest.mark.parametrize("at_once", [600_000, 262_145])
def test_much_data_at_once_arrives_in_the_parts_of_a_connection_without_tls(at_once: int) -> None:
    connection, application = connected()
    assert connection.protocol is not None
    data = (bytes(range(256)) * 3_000)[:at_once]

    connection.protocol.data_received(data)
    assert max(map(len, application.received)) == 262_144
    assert b"".join(application.received) == data

    application.received.clear()
    connection.protocol.data_received(b"end" + data)
    assert len(application.received) == 1
