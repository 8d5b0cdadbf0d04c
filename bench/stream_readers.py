"""A process with many stream readers of each server: `python -m bench.stream_readers NUMBER PORT=PATH …`.

It prints `ready` when all streams are open. For each line on standard input it prints a report of the events since the
previous one.
"""

from __future__ import annotations

import gc
import json
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field

from bench import workload

_EVENT = re.compile(rb'"n":(\d+),"sent":(\d+)')
_READ_BYTES = 1 << 18


@dataclass(slots=True)
class Reader:
    """One open stream: the number of its server, and the number of the next event."""

    server: int
    sock: socket.socket
    next_number: int = 0


@dataclass
class Deliveries:
    """The events that the readers of one server received since the last report."""

    latencies_ns: list[int] = field(default_factory=list)
    faults: int = 0


def main() -> None:
    """Open the streams, and read and report until standard input ends."""
    readers: dict[int, Reader] = {}
    targets = [target.split("=", 1) for target in sys.argv[2:]]
    for server, (port, path) in enumerate(targets):
        for _ in range(int(sys.argv[1])):
            reader = _open(server, int(port), path)
            readers[reader.sock.fileno()] = reader
    gc.collect()
    gc.disable()
    _read(readers, [Deliveries() for _ in targets])


def _open(server: int, port: int, path: str) -> Reader:
    sock = socket.create_connection(("127.0.0.1", port), 30)
    sock.sendall(workload.get(path, "text/event-stream"))
    head = b""
    while b"id: " not in head:
        head += (part := sock.recv(4096))
        assert part, head
    assert head.startswith(b"HTTP/1.1 200"), head
    sock.settimeout(0)
    return Reader(server, sock)


def _read(readers: dict[int, Reader], deliveries: list[Deliveries]) -> None:
    poll = select.epoll()
    for descriptor in (0, *readers):
        poll.register(descriptor, select.EPOLLIN)
    print("ready", flush=True)
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    clock = time.perf_counter_ns
    cpu_began = time.process_time()
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                if not sys.stdin.readline():
                    return
                cpu_began = _report(deliveries, cpu_began)
                continue
            reader = readers[descriptor]
            count = reader.sock.recv_into(view)
            now = clock()
            delivered = deliveries[reader.server]
            if not count:
                delivered.faults += 1
                poll.unregister(descriptor)
            for match in _EVENT.finditer(buffer, 0, count):
                number, sent = match.groups()
                if int(number) != reader.next_number:
                    delivered.faults += 1
                reader.next_number += 1
                delivered.latencies_ns.append(now - int(sent))


def _report(deliveries: list[Deliveries], cpu_began: float) -> float:
    cpu = time.process_time()
    report = [{"latencies_ns": sorted(each.latencies_ns), "faults": each.faults} for each in deliveries]
    print(json.dumps({"servers": report, "cpu_s": cpu - cpu_began}), flush=True)
    for each in deliveries:
        each.latencies_ns.clear()
    return time.process_time()


if __name__ == "__main__":
    main()
