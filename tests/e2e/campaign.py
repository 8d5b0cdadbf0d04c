"""A campaign: flights are produced and consumed while consumers and nodes are killed and answers get lost."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.consumers import COUNTS, GROUP, TOPIC, Consumer
from tests.e2e.journal import Journal
from tests.e2e.lossy import IMPATIENT_S, PATIENT_S, Fleet, Line, Lost, frozen
from tests.e2e.node import create_topic, read_topic
from tests.e2e.test_flights import flights

if TYPE_CHECKING:
    from tests.e2e.node import Node

PARTITIONS = 30
BATCH = 20
SESSION_MS = 3_000
END_S = 60.0
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Plan:
    """How hard a campaign is.

    Attributes:
        flights: Number of records.
        kinds: Kinds of consumers, in equal shares.
        rounds: Number of blows; one in four hits a node.
        freezes: Nodes are not only killed but now and then frozen for a while, with the calls that they have.
        losses: Share of the answers that are lost on purpose.
    """

    flights: int
    kinds: tuple[type[Consumer], ...]
    rounds: int
    consumers: int = 20
    losses: float = 0.06
    freezes: bool = False


@dataclass
class Campaign:
    """One run of a plan."""

    plan: Plan
    fleet: Fleet
    rng: random.Random
    journal: Journal = field(default_factory=Journal)
    statuses: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    made: list[dict[str, Any]] = field(default_factory=list)
    allowed: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Run to the end: all flights are consumed and committed."""
        self.made = load_flights(self.rng, self.plan.flights)
        await self.fleet.start(*self.fleet.nodes)
        try:
            async with self.fleet.up[0].client() as client:
                await create_topic(client, TOPIC, PARTITIONS)
                await create_topic(client, COUNTS, PARTITIONS)
            async with asyncio.TaskGroup() as group:
                sampling = group.create_task(self.sample())
                produced = group.create_task(self.produce())
                consumers = [self.hire(group, number) for number in range(self.plan.consumers)]
                await self.kill_at_random(group, consumers)
                await produced
                async with asyncio.timeout(END_S):
                    await sampling
                for task, _ in consumers:
                    task.cancel()
        except BaseException:
            print(self.summary())
            raise

    def hire(
        self, group: asyncio.TaskGroup, number: int, before: Consumer | None = None
    ) -> tuple[asyncio.Task[None], Consumer]:
        """Start a consumer: a new member, or one that was killed and comes back under its name."""
        kind = self.plan.kinds[number % len(self.plan.kinds)] if before is None else type(before)
        life = f"{kind.__name__}-{number}-{next(_lives)}"
        rng = random.Random(self.rng.random())
        attempt_s = IMPATIENT_S if self.plan.freezes else PATIENT_S
        line = Line(self.fleet, rng, self.plan.losses, self.statuses, attempt_s)
        member_id = life if before is None else before.member_id
        consumer = kind(member_id, life, line, self.journal, rng, SESSION_MS, refusals=self.refusals)
        return group.create_task(consumer.run(), name=life), consumer

    async def kill_at_random(
        self, group: asyncio.TaskGroup, consumers: list[tuple[asyncio.Task[None], Consumer]]
    ) -> None:
        """Kill consumers and nodes while records are processed, let some leave, and start others in their place."""
        rng, step = self.rng, self.plan.flights // (self.plan.rounds + 1)
        for number in range(self.plan.rounds):
            self.allow(step)
            await self.journal.progress(rng.randint(1, step * 3 // 4))
            await asyncio.sleep(rng.uniform(0, 0.1))  # the moment of a kill
            if number % 4 == 1:
                await self.hit_node(rng.choice(self.fleet.up))
                continue
            for victim in rng.sample(range(len(consumers)), rng.randint(1, 3)):
                task, consumer = consumers[victim]
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                leaves, returns = rng.random() < 0.3, rng.random() < 0.4
                self.kills["left" if leaves else "consumer"] += 1
                if leaves:
                    await consumer.leave()
                same = consumer if returns else None
                consumers[victim] = self.hire(group, victim, same)
        self.allow(self.plan.flights)

    async def hit_node(self, node: Node) -> None:
        """Kill a node and start it again, or freeze it for a while."""
        freezes = self.plan.freezes and self.rng.random() < 0.7
        self.kills["frozen" if freezes else "node"] += 1
        if not freezes:
            await self.fleet.kill(node)
            await self.fleet.start(node)
            return
        with frozen(node):
            await asyncio.sleep(self.rng.uniform(0, SESSION_MS / 1000))  # how long it is frozen

    def allow(self, flights: int) -> None:
        """Let so many more flights be produced: there is work at each kill."""
        self.allowed += flights
        self.more.set()

    async def produce(self) -> None:
        """Append all flights in order, each batch under a key, while they are consumed."""
        line = Line(self.fleet, random.Random(self.rng.random()), self.plan.losses, self.statuses)
        for start in range(0, len(self.made), BATCH):
            while self.allowed <= start:
                self.more.clear()
                await self.more.wait()
            body = "".join(json.dumps(flight) + "\n" for flight in self.made[start : start + BATCH]).encode()
            path = f"/v1/topics/{TOPIC}/records?lines=values&key_from=/origin"
            answer = await line.insist("POST", path, body, {"Idempotency-Key": f"batch {start}"})
            assert answer.status in {200, 201}, answer

    async def sample(self) -> None:
        """Look again and again at what is committed, until that is everything."""
        line = Line(self.fleet, random.Random(self.rng.random()), 0.0, self.statuses)
        last: dict[int, int] = {}
        while sum(last.values()) < len(self.made):
            await asyncio.sleep(SAMPLE_S)  # between two looks
            floor = dict(self.journal.committed)
            with contextlib.suppress(Lost):
                answer = await line.call("GET", f"/v1/groups/{GROUP}/offsets")
                if answer.status == 404:
                    assert not last
                    continue
                last = self.note_sample(answer.document["offsets"], last, floor)

    def note_sample(self, offsets: list[dict[str, Any]], last: dict[int, int], floor: dict[int, int]) -> dict[int, int]:
        """Check a look at the committed offsets beside the one before."""
        found = {one["partition"]: one["committed_offset"] for one in offsets if one["committed_offset"] is not None}
        for partition in last.keys() | floor.keys():
            lowest = max(last.get(partition, 0), floor.get(partition, 0))
            assert found.get(partition, -1) >= lowest, f"{partition}: {found} after {last}, {floor}"
        for partition, offset in found.items():
            self.journal.note_committed(partition, offset)
        self.journal.samples += 1
        return found

    def check_journal(self) -> None:
        """Check that every flight was processed, those of an origin in the order in which they were made."""
        expected: dict[str, list[int]] = defaultdict(list)
        for flight in self.made:
            expected[flight["origin"]].append(flight["number"])
        assert self.journal.numbers == expected
        assert sum(self.journal.processed_end.values()) == len(self.made)
        assert all("Traceback" not in node.log for node in self.fleet.nodes)

    async def check_counts(self) -> None:
        """Check that what the transactions wrote adds up to the input, and each offset was counted once."""
        async with self.fleet.up[0].client() as client:
            records = [one for each in await read_topic(client, COUNTS, range(PARTITIONS)) for one in each]
        totals: Counter[str] = Counter()
        counted: Counter[tuple[int, int, int]] = Counter()
        for record in records:
            totals[record["key"]] += record["value"]["count"]
            first, end = record["value"]["span"]
            counted[record["value"]["partition"], first, end] += record["value"]["count"]
        assert totals == Counter(flight["origin"] for flight in self.made)
        ends: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        for (partition, first, end), count in sorted(counted.items()):
            assert (first, end - first) == (ends[partition], count)
            ends[partition] = end
        assert sum(ends.values()) == len(self.made)

    def summary(self) -> str:
        """Say in a few lines what happened."""
        journal = self.journal
        return (
            f"{len(self.made)} flights, {journal.processed} processed, {journal.repeats} again, "
            f"{journal.takeovers} takeovers, {journal.samples} samples; killed {dict(self.kills)}\n"
            f"answers {dict(sorted(self.statuses.items()))}\nrefusals {dict(self.refusals)}"
        )


_lives = itertools.count(1)


def load_flights(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """Return numbered flights in order of departure: made up, or those of the file MILLRACE_FLIGHTS."""
    path = os.environ.get("MILLRACE_FLIGHTS")
    if path is None:
        made = itertools.chain.from_iterable(flights(rng) for _ in itertools.count())
        return [flight | {"number": index} for index, flight in enumerate(itertools.islice(made, number))]
    with gzip.open(Path(path), "rt") as file:
        return [json.loads(line) | {"number": index} for index, line in enumerate(itertools.islice(file, number))]
