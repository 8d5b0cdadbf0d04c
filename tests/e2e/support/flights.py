"""Flights: records with a skewed key, the airport of origin."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

FLIGHTS = 20_000
AIRPORTS = 300


def flights(rng: random.Random) -> list[dict[str, Any]]:
    """Generate 20,000 flights in order of departure; the airports differ much in size."""
    airports = [f"A{number:03}" for number in range(AIRPORTS)]
    weights = [1 / (number + 1) for number in range(AIRPORTS)]
    return [
        {
            "number": number,
            "origin": rng.choices(airports, weights)[0],
            "dest": rng.choice(airports),
            "delay": rng.choice([None, rng.randint(-20, 300)]),
            "distance": round(rng.uniform(80, 4_900), 1),
        }
        for number in range(FLIGHTS)
    ]


def load_flights(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """Return numbered flights in order of departure: generated, or those of the file MILLRACE_FLIGHTS."""
    path = os.environ.get("MILLRACE_FLIGHTS")
    if path is None:
        generated = itertools.chain.from_iterable(flights(rng) for _ in itertools.count())
        return [flight | {"number": index} for index, flight in enumerate(itertools.islice(generated, number))]
    with gzip.open(Path(path), "rt") as file:
        return [json.loads(line) | {"number": index} for index, line in enumerate(itertools.islice(file, number))]
