"""TLS connections whose unsent bytes are known.

asyncio's TLS transport encrypts at once whatever is written, and hands it to the transport of the socket, which buffers
it without a limit and is not visible: the size of unsent bytes is 0, and nothing pauses the writer. Here, what the
socket does not take waits before it is encrypted, is counted, and pauses the writer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable

_PART_BYTES = 64 * 1024
"""How much is encrypted at once. A part that the socket does not take pauses the next ones."""
_MAX_READ_BYTES = 256 * 1024
"""How much the event loop passes at once without TLS, which the limits of a request count on."""
_LOW_WATER_BYTES = HIGH_WATER_LIMIT // 4


class TlsProtocol(asyncio.Protocol):
    """Passes the events of a TLS connection to the protocol of a server.

    Args:
        protocol: The protocol; its transport is a `TlsTransport`.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._transport: TlsTransport | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # narrowed, as in uvicorn
        transport.set_write_buffer_limits(_PART_BYTES, 0)
        self._transport = TlsTransport(transport, self._protocol)
        self._protocol.connection_made(self._transport)

    @override
    def data_received(self, data: bytes) -> None:
        if len(data) <= _MAX_READ_BYTES:
            self._protocol.data_received(data)
            return
        for start in range(0, len(data), _MAX_READ_BYTES):
            if self._transport is None or self._transport.is_closing():
                return
            self._protocol.data_received(data[start : start + _MAX_READ_BYTES])

    @override
    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause()

    @override
    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume()


class TlsTransport(asyncio.Transport):
    """Writes to a TLS transport in parts, as long as the socket takes them.

    Args:
        transport: The transport of asyncio.
        protocol: Is paused while much waits.
    """

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._transport = transport
        self._protocol = protocol
        self._waiting = bytearray()
        self._is_full = False
        self._has_paused = False
        self._is_closing = False

    def pause(self) -> None:
        """Stop writing: the socket takes no more."""
        self._is_full = True

    def resume(self) -> None:
        """Go on writing: the socket has taken all."""
        self._is_full = False
        self._write_parts()

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self._transport.is_closing():
            return
        if self._is_full or self._waiting or len(data) > _PART_BYTES:
            self._waiting += data
            self._write_parts()
        else:
            self._transport.write(data)

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    @override
    def get_write_buffer_size(self) -> int:
        return len(self._waiting) + self._transport.get_write_buffer_size()

    @override
    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    @override
    def close(self) -> None:
        """Close after what waits is written."""
        self._is_closing = True
        if not self._waiting:
            self._transport.close()

    @override
    def abort(self) -> None:
        self._is_closing = True
        self._waiting.clear()
        self._transport.abort()

    @override
    def can_write_eof(self) -> bool:
        return False

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    @override
    def is_reading(self) -> bool:
        return self._transport.is_reading()

    @override
    def pause_reading(self) -> None:
        self._transport.pause_reading()

    @override
    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def _write_parts(self) -> None:
        """Write until the socket takes no more; then the TLS transport calls `pause` while it writes."""
        while self._waiting and not self._is_full and not self._transport.is_closing():
            part = bytes(memoryview(self._waiting)[:_PART_BYTES])
            del self._waiting[: len(part)]
            self._transport.write(part)
        self._control_writer()
        if self._is_closing and not self._waiting:
            self._transport.close()

    def _control_writer(self) -> None:
        if not self._has_paused and len(self._waiting) > HIGH_WATER_LIMIT:
            self._has_paused = True
            self._protocol.pause_writing()
        elif self._has_paused and len(self._waiting) <= _LOW_WATER_BYTES:
            self._has_paused = False
            self._protocol.resume_writing()
