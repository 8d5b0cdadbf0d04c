"""The records and requests of all benchmarks: flights of 200 to 400 bytes of JSON, the same in every run."""

from __future__ import annotations

import json
import random
from functools import cache
from itertools import islice
from typing import NamedTuple

from app.domain.log.partitioner import partition_for_key

TOPIC = "flights"
PARTITIONS = 4
BATCH = 500
_SAMPLES = 10_000
_CARRIERS = ("UA", "AA", "DL", "B6", "EV", "MQ", "US", "WN", "VX", "FL")
_AIRPORTS = ("EWR", "LGA", "JFK", "IAH", "MIA", "BQN", "ATL", "ORD", "FLL", "IAD", "MCO", "PBI", "TPA", "LAX", "SFO")


class Sample(NamedTuple):
    """A record to send: its key, its value as JSON, and the partition of the key."""

    key: bytes
    value: bytes
    partition: int


@cache
def samples() -> list[Sample]:
    """Return the records of which requests and raw rows are built."""
    rng = random.Random(20130101)
    return [_sample(rng) for _ in range(_SAMPLES)]


def _sample(rng: random.Random) -> Sample:
    carrier, number = rng.choice(_CARRIERS), rng.randint(1, 400)
    flight = {
        "year": 2013,
        "month": rng.randint(1, 12),
        "day": rng.randint(1, 28),
        "dep_time": rng.randint(500, 2359),
        "sched_dep_time": rng.randint(500, 2359),
        "dep_delay": rng.randint(-20, 300),
        "arr_time": rng.randint(1, 2359),
        "sched_arr_time": rng.randint(1, 2359),
        "arr_delay": rng.choice([None, rng.randint(-40, 300)]),
        "carrier": carrier,
        "flight": number,
        "tailnum": f"N{rng.randint(10000, 99999)}",
        "origin": rng.choice(_AIRPORTS),
        "dest": rng.choice(_AIRPORTS),
        "air_time": rng.randint(20, 600),
        "distance": rng.randint(80, 4983),
        "time_hour": f"2013-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T05:00:00Z",
    }
    key = f"{carrier}{number}".encode()
    return Sample(key, json.dumps(flight, separators=(",", ":")).encode(), partition_for_key(key, PARTITIONS))


@cache
def batches() -> list[list[Sample]]:
    """Return the records in batches of BATCH."""
    pool = iter(samples())
    return [list(islice(pool, BATCH)) for _ in range(_SAMPLES // BATCH)]


def record_json(sample: Sample) -> bytes:
    """Return a record as JSON of a produce request."""
    return b'{"key":"%b","value":%b}' % (sample.key, sample.value)


def post(path: str, body: bytes) -> bytes:
    """Return the bytes of a request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def get(path: str, accept: str = "*/*") -> bytes:
    """Return the bytes of a request without a body."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: {accept}\r\n\r\n".encode()


@cache
def single_produces() -> list[bytes]:
    """Return requests of one record each."""
    return [post(f"/v1/topics/{TOPIC}/records", record_json(sample)) for sample in samples()[:2000]]


@cache
def batch_produces() -> list[bytes]:
    """Return requests of BATCH records each."""
    return [
        post(f"/v1/topics/{TOPIC}/records", b'{"records":[%b]}' % b",".join(map(record_json, batch)))
        for batch in batches()
    ]


def with_key(requests: list[bytes], key: str | None) -> list[bytes]:
    """Return requests with an API key; without a key, the same list."""
    if key is None:
        return requests
    header = f"\r\nauthorization: Bearer {key}\r\n".encode()
    return [request.replace(b"\r\n", header, 1) for request in requests]


def page_starts(log_end_offsets: list[int], count: int = 400) -> list[tuple[int, int]]:
    """Return partition and offset of full pages at random offsets."""
    rng = random.Random(42)
    full = [partition for partition, end in enumerate(log_end_offsets) if end >= BATCH]
    chosen = [rng.choice(full) for _ in range(count)]
    return [(partition, rng.randint(0, log_end_offsets[partition] - BATCH)) for partition in chosen]


def fetch_request(page_start: tuple[int, int]) -> bytes:
    """Return the request for one page."""
    partition, offset = page_start
    return get(f"/v1/topics/{TOPIC}/partitions/{partition}/records?offset={offset}&max_records={BATCH}")
