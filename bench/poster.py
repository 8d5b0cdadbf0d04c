"""The twin of a webhook: the same HTTP client posts the same bodies in a bare loop.

`python -m bench.poster PORT IN_FLIGHT SECONDS` prints the posts per second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from ipaddress import ip_network
from itertools import cycle

import uvloop

from app.broker.outbound.client import OutboundClient
from app.broker.outbound.exchange import OutboundRules
from app.broker.outbound.resolver import SystemResolver
from bench import workload

_HEADERS = [(b"content-type", b"application/json"), (b"webhook-id", b"msg_x"), (b"webhook-timestamp", b"1700000000")]


async def _post(port: int, in_flight: int, seconds: float) -> float:
    client = OutboundClient(
        OutboundRules((ip_network("127.0.0.0/8"),), allow_http=False, ca_file="", proxy_url=""), SystemResolver()
    )
    bodies = cycle([sample.value for sample in workload.samples()[:2_000]])
    url = f"http://127.0.0.1:{port}/hook"
    done = 0
    deadline = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            await client.post(url, _HEADERS, next(bodies), 15.0)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    print(uvloop.run(_post(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
