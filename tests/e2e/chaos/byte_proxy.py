"""A TCP proxy that cuts a connection after a number of bytes, in one direction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

Direction = Literal["request", "answer"]
_CHUNK_BYTES = 65_536


class ByteProxy:
    """Forwards connections to a server on this machine.

    Attributes:
        port: Where it listens.
        cut: Whether a connection was cut since `cut_after`.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.cut = False
        self._server_port = port
        self._direction: Direction | None = None
        self._left = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut_after(self, direction: Direction, size: int) -> None:
        """Cut the connection on which this many further bytes of a direction have passed, over all connections."""
        self._direction, self._left, self.cut = direction, size, False

    def cut_no_more(self) -> None:
        """Forward everything from now on."""
        self._direction = None

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        both = (writer, server_writer)
        self._writers.update(both)
        try:
            await asyncio.gather(
                self._copy(reader, server_writer, "request", both), self._copy(server_reader, writer, "answer", both)
            )
        finally:
            for each in both:
                each.transport.abort()
                self._writers.discard(each)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if direction == self._direction:
                    if len(data) > self._left:
                        writer.write(data[: self._left])
                        await writer.drain()
                        self._direction, self.cut = None, True
                        break
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
        for each in both:
            each.close()
