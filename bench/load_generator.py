"""The load generator: one process, raw sockets, prepared requests, and only the heads of answers are parsed."""

from __future__ import annotations

import gc
import selectors
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

_READ_BYTES = 1 << 20
_DRAIN_S = 30.0
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class BadAnswer(Exception):
    """An answer was not 2xx, or the connection ended."""


@dataclass(slots=True)
class LoadResult:
    """The result of one round of load.

    Attributes:
        rate: Answers per second within the measured window.
        acknowledged: Number of 2xx answers, including warm-up and drain.
        latencies_s: Latencies of the answers within the window.
        cpu_share: Share of one core that the generator used.
    """

    rate: float = 0.0
    acknowledged: int = 0
    latencies_s: list[float] = field(default_factory=list)
    cpu_share: float = 0.0

    @property
    def median_ms(self) -> float:
        """Median latency in milliseconds."""
        return statistics.median(self.latencies_s) * 1000


class Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("_buffer", "_missing", "_out", "_view", "body", "sent_at", "sock")

    def __init__(self, port: int, buffer: bytearray) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(0)
        self._view = memoryview(buffer)
        self._buffer = b""
        self._missing = -1
        self._out: memoryview | None = None
        self.sent_at = 0.0
        self.body = b""

    def send(self, request: bytes) -> bool:
        """Start a request. Return whether it is sent completely; if not, call `send_rest` when writable."""
        self.sent_at = time.perf_counter()
        try:
            sent = self.sock.send(request)
        except BlockingIOError:
            sent = 0
        if sent == len(request):
            return True
        self._out = memoryview(request)[sent:]
        return False

    def send_rest(self) -> bool:
        """Send more of a request. Return whether it is sent completely."""
        assert self._out is not None
        try:
            self._out = self._out[self.sock.send(self._out) :]
        except BlockingIOError:
            return False
        return not self._out

    def receive(self, *, keep: bool = False) -> bool:
        """Read. Return whether the answer is complete; `keep` appends its bytes to `body`.

        Raises:
            BadAnswer: The answer is not 2xx, or the connection is closed.
        """
        try:
            count = self.sock.recv_into(self._view)
        except BlockingIOError:
            return False
        if count == 0:
            raise BadAnswer("the server closed a connection")
        if keep:
            self.body += bytes(self._view[:count])
        if self._missing < 0:
            data = self._buffer + bytes(self._view[: min(count, 4096)])
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return False
            self._missing = end + 4 + _content_length(data[:end]) - len(self._buffer)
            self._buffer = b""
            if not data.startswith(b"HTTP/1.1 2"):
                raise BadAnswer(data.decode(errors="replace"))
        self._missing -= count
        if self._missing > 0:
            return False
        self._missing = -1
        return True

    def call(self, request: bytes) -> bytes:
        """Send a request, wait for its answer and return its body."""
        self.sock.settimeout(_DRAIN_S)
        self.body = b""
        self.sock.sendall(request)
        while not self.receive(keep=True):
            pass
        self.sock.settimeout(0)
        return self.body.partition(b"\r\n\r\n")[2]


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    if at < 0:
        raise BadAnswer("an answer has no content-length")
    return int(head[at + 15 :].split(b"\r\n", 1)[0])


def generate_load(
    port: int, requests: Sequence[bytes], *, connections: int, seconds: float, warm_up: float = 0.5
) -> LoadResult:
    """Keep `connections` requests in flight, warm up, measure for `seconds`, and wait for the last answers.

    Raises:
        BadAnswer: An answer was not 2xx.
    """
    buffer = bytearray(_READ_BYTES)
    clients = [Connection(port, buffer) for _ in range(connections)]
    gc.collect()
    gc.disable()
    try:
        return _drive(clients, cycle(requests), seconds, warm_up)
    finally:
        gc.enable()
        for client in clients:
            client.sock.close()


def _drive(clients: list[Connection], requests: Iterator[bytes], seconds: float, warm_up: float) -> LoadResult:
    result = LoadResult()
    begin = time.perf_counter() + warm_up
    end = begin + seconds
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, _READ if client.send(next(requests)) else _WRITE, client)
        _answers(selector, requests, begin, None, result)
        cpu_began = time.process_time()
        _answers(selector, requests, end, result.latencies_s, result)
        result.cpu_share = (time.process_time() - cpu_began) / seconds
        _drain(selector, len(clients), result)
    result.rate = len(result.latencies_s) / seconds
    return result


def _answers(
    selector: selectors.BaseSelector,
    requests: Iterator[bytes],
    end: float,
    latencies_s: list[float] | None,
    result: LoadResult,
) -> None:
    """Receive answers until `end`, and send the next request after each."""
    clock = time.perf_counter
    while (now := clock()) < end:
        for key, _ in selector.select(end - now):
            client: Connection = key.data
            if key.events == _WRITE:
                if client.send_rest():
                    selector.modify(client.sock, _READ, client)
            elif client.receive():
                result.acknowledged += 1
                if latencies_s is not None:
                    latencies_s.append(clock() - client.sent_at)
                if not client.send(next(requests)):
                    selector.modify(client.sock, _WRITE, client)


def _drain(selector: selectors.BaseSelector, in_flight: int, result: LoadResult) -> None:
    """Receive the last answers without new requests."""
    while in_flight:
        if not (ready := selector.select(_DRAIN_S)):
            raise BadAnswer(f"{in_flight} requests had no answer within {_DRAIN_S} s")
        for key, _ in ready:
            client: Connection = key.data
            if key.events == _WRITE:
                if client.send_rest():
                    selector.modify(client.sock, _READ, client)
            elif client.receive():
                result.acknowledged += 1
                in_flight -= 1
