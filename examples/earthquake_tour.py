"""A tour with a week of earthquakes: produce them, and read them back by partition, by time and by cursor.

Start a server (`make run`), and run .venv/bin/python examples/earthquake_tour.py [http://127.0.0.1:8400]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import httpx2

QUAKES = Path(__file__).with_name("earthquakes.ndjson")
TOPIC = "earthquake-tour"
SINCE = "2018-02-01T00:00:00Z"


def main() -> None:
    """Run the tour and print each step."""
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MILLRACE_URL", "http://127.0.0.1:8400")
    with httpx2.Client(base_url=f"{url}/v1/topics", timeout=30) as client:
        lines = QUAKES.read_bytes().splitlines()
        try:
            create(client)
        except httpx2.TransportError as error:
            sys.exit(f"no server answers at {url}: {error}; start one with make run, or pass another URL")
        produce(client)
        by_partition(client, lines)
        by_time(client)
        by_cursor(client, lines)


def create(client: httpx2.Client) -> None:
    """Delete and create the topic, without retention by time: the timestamps of the records are old."""
    client.delete(f"/{TOPIC}")
    answer = client.put(f"/{TOPIC}", json={"partitions": 4, "config": {"retention_ms": -1}}).raise_for_status()
    print(f"created the topic {TOPIC} with {answer.json()['partitions']} partitions")


def produce(client: httpx2.Client) -> None:
    """Send the file unchanged: each line is a value, and JSON pointers name its key and its timestamp."""
    answer = client.post(
        f"/{TOPIC}/records",
        params={"lines": "values", "key_from": "/network", "timestamp_from": "/time"},
        content=QUAKES.read_bytes(),
        headers={"content-type": "application/json", "prefer": "return=minimal"},
    ).raise_for_status()
    partitions = answer.json()["partitions"]
    print(f"produced {sum(one['count'] for one in partitions)} records into {len(partitions)} partitions:")
    for one in sorted(partitions, key=lambda one: one["partition"]):
        print(f"  partition {one['partition']}: {one['count']} records from offset {one['base_offset']}")


def by_partition(client: httpx2.Client, lines: list[bytes]) -> None:
    """Read each partition page by page, by `next_offset`."""
    number = 0
    for partition in client.get(f"/{TOPIC}/partitions").raise_for_status().json()["items"]:
        offset = partition["log_start_offset"]
        while offset < partition["log_end_offset"]:
            path = f"/{TOPIC}/partitions/{partition['partition']}/records"
            page = client.get(path, params={"offset": offset, "max_records": 500}).raise_for_status().json()
            number += len(page["records"])
            offset = page["next_offset"]
    print(f"read {number} of {len(lines)} records back by partition")


def by_time(client: httpx2.Client) -> None:
    """Find the first record of each partition at or after a time, and read the record before it."""
    partitions = client.get(f"/{TOPIC}/partitions").raise_for_status().json()["items"]
    for partition in partitions:
        path = f"/{TOPIC}/partitions/{partition['partition']}/records"
        page = client.get(path, params={"offset": f"@{SINCE}", "max_records": 1}).raise_for_status().json()
        if not page["records"]:
            continue
        found = page["records"][0]
        before = ""
        if found["offset"] > partition["log_start_offset"]:
            earlier = client.get(path, params={"offset": found["offset"] - 1, "max_records": 1}).raise_for_status()
            before = f", the record before it at {earlier.json()['records'][0]['timestamp_ms']}"
        print(
            f"partition {partition['partition']} since {SINCE}: offset {found['offset']} at "
            f"{found['timestamp_ms']}{before}"
        )


def by_cursor(client: httpx2.Client, lines: list[bytes]) -> None:
    """Read the topic by cursor, merged by time, and compare every value byte for byte."""
    values: list[bytes] = []
    cursor = None
    while True:
        params = {"max_records": 500} if cursor is None else {"max_records": 500, "cursor": cursor}
        answer = client.get(f"/{TOPIC}/records", params=params).raise_for_status()
        page = answer.json()
        if not page["records"]:
            break
        values += values_of(answer.content)
        cursor = page["next_cursor"]
    same = sorted(values) == sorted(lines)
    print(f"read {len(values)} records by cursor; each once and equal byte for byte: {same}")
    if not same:
        sys.exit(1)


def values_of(page: bytes) -> list[bytes]:
    """Return the values of a page as their bytes in it."""
    decoder = json.JSONDecoder()
    text = page.decode()
    values, mark = [], '"value":'
    at = text.find(mark)
    while at >= 0:
        start = at + len(mark)
        _, end = decoder.raw_decode(text, start)
        values.append(text[start:end].encode())
        at = text.find(mark, end)
    return values


if __name__ == "__main__":
    main()
