"""HTTP calls that many end-to-end tests make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2

from tests.waiting import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterable


def client_of(url: str) -> httpx2.AsyncClient:
    """Return a client without a connection limit: each waiting read takes a connection."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=DEADLINE_S, limits=limits, trust_env=False)


async def gauge(client: httpx2.AsyncClient, name: str) -> int:
    """Return the value of a metric."""
    text = (await client.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return int(float(line.split()[1]))


async def waiting_reads(client: httpx2.AsyncClient) -> int:
    """Return the number of reads that wait on a node."""
    return await gauge(client, "millrace_waiting_reads")


async def open_streams(client: httpx2.AsyncClient) -> int:
    """Return the number of open streams of a node."""
    return await gauge(client, "millrace_open_streams")


async def await_waiting_reads(client: httpx2.AsyncClient, number: int) -> None:
    """Wait until at least `number` reads wait on a node."""
    await until(lambda: waiting_reads(client), lambda found: found >= number)


async def await_ready(client: httpx2.AsyncClient) -> None:
    """Wait until the node is ready."""
    await until(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)


async def create_topic(client: httpx2.AsyncClient, topic: str, partitions: int) -> None:
    """Create a new topic."""
    answer = await client.put(f"/v1/topics/{topic}", json={"partitions": partitions})
    assert answer.status_code == 201, answer.text


async def produce(client: httpx2.AsyncClient, topic: str, *values: object, **headers: str) -> list[dict[str, Any]]:
    """Append values to partition 0, and return the `offsets` of the answer."""
    answer = await client.post(
        f"/v1/topics/{topic}/partitions/0/records",
        json={"records": [{"value": value} for value in values]},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 201, answer.text
    offsets: list[dict[str, Any]] = answer.json()["offsets"]
    return offsets


async def fetch(client: httpx2.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    """Read a page."""
    answer = await client.get(path, params={"max_records": 10_000, "max_bytes": 33_554_432} | query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def read_partition(client: httpx2.AsyncClient, topic: str, partition: int) -> list[dict[str, Any]]:
    """Read a whole partition, and assert that its offsets are dense from the log start offset."""
    records: list[dict[str, Any]] = []
    path = f"/v1/topics/{topic}/partitions/{partition}/records"
    page = await fetch(client, path, offset="earliest")
    start = page["log_start_offset"]
    while page["records"]:
        records += page["records"]
        page = await fetch(client, path, offset=page["next_offset"])
    assert [record["offset"] for record in records] == list(range(start, page["log_end_offset"]))
    return records


async def read_topic(client: httpx2.AsyncClient, topic: str, partitions: Iterable[int]) -> list[list[dict[str, Any]]]:
    """Read whole partitions."""
    return [await read_partition(client, topic, partition) for partition in partitions]
