"""What a receiver got from servers that were killed, and what it must have got."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.api.webhooks.receiver import SETTINGS, Answer, WebhookReceiver
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.api.webhooks.receiver import Post

TOPIC = "orders"
PARTITIONS = 4
KEYS = 25
MAX_IN_FLIGHT = 4
AHEAD = 5 * MAX_IN_FLIGHT
"""Records of a webhook that a node holds at once: those under way, and four times as many that follow."""

SERVER = SETTINGS
WORK_S = 0.01
FAILURES = 0.2


class WebhookLedger:
    """Webhooks over one topic to one receiver, which fails a part of the requests.

    Attributes:
        kills: The numbers of requests that had been answered when a node was killed.
    """

    def __init__(self, receiver: WebhookReceiver, rng: random.Random, webhooks: int) -> None:
        self._receiver = receiver
        self._rng = rng
        self.names = [f"hook-{number}" for number in range(webhooks)]
        self.records = 0
        self.kills: list[int] = []
        receiver.answer = self._answer
        receiver.work_s = WORK_S

    def _answer(self, _: Post) -> Answer:
        return Answer(500 if self._rng.random() < FAILURES else 200)

    async def create(self, client: httpx2.AsyncClient) -> None:
        """Create the topic and the webhooks."""
        assert (await client.put(f"/v1/topics/{TOPIC}", json={"partitions": PARTITIONS})).status_code == 201
        for name in self.names:
            webhook = {
                "url": self._receiver.url,
                "topics": [TOPIC],
                "max_in_flight": MAX_IN_FLIGHT,
                "retry_delays_ms": [1] * 99,
                "timeout_ms": 30_000,
            }
            answer = await client.put(f"/v1/webhooks/{name}", json=webhook)
            assert answer.status_code == 201, answer.text

    async def produce(self, client: httpx2.AsyncClient, number: int) -> None:
        """Append records of random keys."""
        records = [{"key": f"key-{self._rng.randrange(KEYS)}", "value": each} for each in range(number)]
        answer = await client.post(f"/v1/topics/{TOPIC}/records", json={"records": records})
        assert answer.status_code == 201, answer.text
        self.records += number

    def note_kill(self) -> None:
        """Note that a node was killed."""
        self.kills.append(len(self._receiver.answered))

    async def answered(self, more: int) -> None:
        """Wait until the receiver has answered some more requests."""
        wanted = len(self._receiver.answered) + more

        async def number() -> int:
            return len(self._receiver.answered)

        await until(number, lambda found: found >= wanted)

    async def finish(self, client: httpx2.AsyncClient) -> None:
        """Wait until all records are settled: each webhook counts each record once."""

        async def counts() -> list[dict[str, int]]:
            return [(await client.get(f"/v1/webhooks/{name}")).json()["counts"] for name in self.names]

        def settled(found: list[dict[str, int]]) -> bool:
            return all(sum(each.values()) == each["delivered"] == self.records for each in found)

        await until(counts, settled, seconds=60 + self.records / 20)

    def check(self) -> None:
        """Assert what a receiver may rely on, for each webhook."""
        for name in self.names:
            accepted: dict[tuple[int, int], list[int]] = defaultdict(list)
            ids: dict[tuple[int, int], set[str]] = defaultdict(set)
            of_key: dict[tuple[int, str], list[int]] = defaultdict(list)
            for number, (post, status) in enumerate(self._receiver.answered):
                if post.headers["millrace-webhook"] != name:
                    continue
                ids[post.place].add(post.message_id)
                of_key[post.place[0], post.headers["millrace-key"]].append(post.place[1])
                if status == 200:
                    accepted[post.place].append(number)
            assert len(accepted) == self.records, "a record was not delivered"
            assert all(len(each) == 1 for each in ids.values()), "a record has two ids"
            assert len(set.union(*ids.values())) == self.records, "two records have one id"
            for key, offsets in of_key.items():
                assert all(before <= after for before, after in pairwise(offsets)), f"{name}: {key} is out of order"
            self._check_repeats(name, accepted)

    def _check_repeats(self, name: str, accepted: dict[tuple[int, int], Any]) -> None:
        """Assert that only what was in flight at a kill was delivered twice."""
        own = [
            number
            for number, (post, _) in enumerate(self._receiver.answered)
            if post.headers["millrace-webhook"] == name
        ]
        in_flight: set[int] = set()
        for kill in self.kills:
            before = [number for number in own if number < kill]
            after = [number for number in own if number >= kill]
            in_flight.update(before[-AHEAD:], after[:MAX_IN_FLIGHT])
        repeated = {place: numbers for place, numbers in accepted.items() if len(numbers) > 1}
        for place, numbers in repeated.items():
            assert set(numbers[:-1]) <= in_flight, f"{name}: {place} was delivered again, and was not in flight"
        assert sum(len(numbers) - 1 for numbers in repeated.values()) <= AHEAD * len(self.kills)
