"""A receiver of webhooks that only counts, in a process of its own.

`python -m bench.receiver PORT [hang]` answers every POST with 200 at once, or with `hang` never; GET answers the count.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Receiver(asyncio.Protocol):
    """One connection."""

    count = 0
    hangs = False

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer the requests that are complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._buffer, 0, end)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < size:
                return
            is_post = self._buffer.startswith(b"POST")
            self._buffer = self._buffer[size:]
            self._answer(is_post=is_post)

    def _answer(self, *, is_post: bool) -> None:
        if not is_post:
            body = b"%d" % Receiver.count
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        Receiver.count += 1
        if not self.hangs:
            self._transport.write(_OK)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    Receiver.hangs = sys.argv[2:] == ["hang"]
    uvloop.run(_serve(int(sys.argv[1])))
