"""A proxy in front of a PostgreSQL that loses answers: of a commit, or the notifications."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from tests.waiting import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

_COMMITTED = b"COMMIT\0"
_COMMAND_COMPLETE, _NOTIFICATION = ord("C"), ord("A")
_CHUNK_BYTES = 65_536


class _Message(NamedTuple):
    kind: int
    body: bytes
    whole: bytes


class PostgresProxy:
    """Forwards connections to a PostgreSQL in threads of its own.

    Attributes:
        loses_notifications: Whether notifications of the server are dropped, as by a pooler that shares sessions.
        cut: Set when a connection was cut instead of forwarding a commit or its answer.
    """

    def __init__(self, postgres_url: str) -> None:
        server = urlsplit(postgres_url)
        self._server = (server.hostname or "127.0.0.1", server.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://{server.username}@127.0.0.1:{port}{server.path}?sslmode=disable&gssencmode=disable"
        self.loses_notifications = False
        self.cut = threading.Event()
        self._marker: bytes | None = None
        self._arrives = True
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[:1]:
            thread.join(DEADLINE_S)
        self.close_connections()
        for thread in self._threads[1:]:
            thread.join(DEADLINE_S)
        for each in (*self._sockets, self._listener):
            each.close()

    def lose_commit_of(self, marker: bytes, *, arrives: bool) -> None:
        """Cut the connection that sends these bytes: when the server has committed them, or before they arrive."""
        self._marker = marker
        self._arrives = arrives
        self.cut.clear()

    def close_connections(self) -> None:
        """Cut all connections."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        self._marker = None
        self.cut.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            marked = threading.Event()
            self._sockets += [client, server]
            for target in (self._send_requests, self._send_answers):
                thread = threading.Thread(target=target, args=(client, server, marked))
                self._threads.append(thread)
                thread.start()

    def _send_requests(self, client: socket.socket, server: socket.socket, marked: threading.Event) -> None:
        with _ending(client, server):
            while data := client.recv(_CHUNK_BYTES):
                if self._marker is not None and self._marker in data:
                    marked.set()
                    if not self._arrives:
                        self._cut()
                        return
                server.sendall(data)

    def _send_answers(self, client: socket.socket, server: socket.socket, marked: threading.Event) -> None:
        with _ending(client, server), server.makefile("rb") as answers:
            while head := answers.read(5):
                body = answers.read(int.from_bytes(head[1:], "big") - 4)
                message = _Message(head[0], body, head + body)
                if marked.is_set() and message.kind == _COMMAND_COMPLETE and message.body == _COMMITTED:
                    self._cut()
                    return
                if not (self.loses_notifications and message.kind == _NOTIFICATION):
                    client.sendall(message.whole)


@contextlib.contextmanager
def _ending(*sockets: socket.socket) -> Iterator[None]:
    """Cut both sides when one of them has ended."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
