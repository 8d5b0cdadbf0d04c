"""The records that all benchmarks send: flights, 200 to 400 bytes of JSON each, the same in every run."""

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
    """A record to send: its key, its value as JSON, and the partition that the key names."""

    key: bytes
    value: bytes
    partition: int


@cache
def samples() -> list[Sample]:
    """Return the pool that requests and raw rows are made of."""
    chance = random.Random(20130101)
    return [_sample(chance) for _ in range(_SAMPLES)]


def _sample(chance: random.Random) -> Sample:
    carrier, number = chance.choice(_CARRIERS), chance.randint(1, 400)
    flight = {
        "year": 2013,
        "month": chance.randint(1, 12),
        "day": chance.randint(1, 28),
        "dep_time": chance.randint(500, 2359),
        "sched_dep_time": chance.randint(500, 2359),
        "dep_delay": chance.randint(-20, 300),
        "arr_time": chance.randint(1, 2359),
        "sched_arr_time": chance.randint(1, 2359),
        "arr_delay": chance.choice([None, chance.randint(-40, 300)]),
        "carrier": carrier,
        "flight": number,
        "tailnum": f"N{chance.randint(10000, 99999)}",
        "origin": chance.choice(_AIRPORTS),
        "dest": chance.choice(_AIRPORTS),
        "air_time": chance.randint(20, 600),
        "distance": chance.randint(80, 4983),
        "time_hour": f"2013-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T05:00:00Z",
    }
    key = f"{carrier}{number}".encode()
    return Sample(key, json.dumps(flight, separators=(",", ":")).encode(), partition_for_key(key, PARTITIONS))


@cache
def batches() -> list[list[Sample]]:
    """Return the pool in batches of BATCH."""
    pool = iter(samples())
    return [list(islice(pool, BATCH)) for _ in range(_SAMPLES // BATCH)]


def record_json(sample: Sample) -> bytes:
    """Return a record as a produce request spells it."""
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


def page_fetches(log_end_offsets: list[int], count: int = 400) -> list[tuple[int, int]]:
    """Return (partition, offset) of full pages spread over the log."""
    chance = random.Random(42)
    full = [partition for partition, end in enumerate(log_end_offsets) if end >= BATCH]
    places = (chance.choice(full) for _ in range(count))
    return [(partition, chance.randint(0, log_end_offsets[partition] - BATCH)) for partition in places]


def fetch_request(place: tuple[int, int]) -> bytes:
    """Return the request for one page."""
    partition, offset = place
    return get(f"/v1/topics/{TOPIC}/partitions/{partition}/records?offset={offset}&max_records={BATCH}")
