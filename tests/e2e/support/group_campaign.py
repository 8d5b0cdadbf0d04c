"""A campaign: a group consumes flights while consumers and nodes are killed and answers are lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e.support.api_calls import create_topic, read_topic
from tests.e2e.support.campaign_consumers import COUNTS, GROUP, TOPIC, Consumer
from tests.e2e.support.flights import load_flights
from tests.e2e.support.lossy_client import LONG_TIMEOUT_S, SHORT_TIMEOUT_S, Cluster, LossyClient
from tests.e2e.support.ownership_journal import OwnershipJournal
from tests.e2e.support.raw_http import AnswerLost
from tests.e2e.support.server_process import frozen
from tests.waiting import pause

if TYPE_CHECKING:
    from tests.e2e.support.server_process import ServerProcess

PARTITIONS = 30
BATCH = 20
SESSION_MS = 3_000
END_S = 60.0
SAMPLE_INTERVAL_S = 0.02

RunningConsumer = tuple[asyncio.Task[None], Consumer]


@dataclass(frozen=True)
class CampaignPlan:
    """The size of a campaign.

    Attributes:
        flights: Number of records.
        kinds: Kinds of consumers, in equal shares.
        rounds: Number of kills; one in four hits a node, the others hit consumers.
        losses: Share of the answers that are lost on purpose.
        freezes: Whether nodes are also frozen for a while, with the requests that they have received.
    """

    flights: int
    kinds: tuple[type[Consumer], ...]
    rounds: int
    consumers: int = 20
    losses: float = 0.06
    freezes: bool = False


@dataclass
class GroupCampaign:
    """One run of a plan."""

    plan: CampaignPlan
    cluster: Cluster
    rng: random.Random
    journal: OwnershipJournal = field(default_factory=OwnershipJournal)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    flights: list[dict[str, Any]] = field(default_factory=list)
    allowed: int = 0
    allowed_more: asyncio.Event = field(default_factory=asyncio.Event)
    lives: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def run(self) -> None:
        """Run until all flights are consumed and committed."""
        self.flights = load_flights(self.rng, self.plan.flights)
        await self.cluster.start(*self.cluster.nodes)
        try:
            async with self.cluster.up[0].client() as client:
                await create_topic(client, TOPIC, PARTITIONS)
                await create_topic(client, COUNTS, PARTITIONS)
            async with asyncio.TaskGroup() as group:
                sampling = group.create_task(self.sample_committed_offsets())
                produced = group.create_task(self.produce())
                consumers = [self.start_consumer(group, number) for number in range(self.plan.consumers)]
                await self.kill_at_random(group, consumers)
                await produced
                async with asyncio.timeout(END_S):
                    await sampling
                for task, _ in consumers:
                    task.cancel()
        except BaseException:
            print(self.summary())
            raise

    def client(self, losses: float, timeout_s: float = LONG_TIMEOUT_S) -> LossyClient:
        """Return a client with its own random numbers."""
        rng = random.Random(self.rng.random())
        return LossyClient(self.cluster, rng, losses, self.statuses, timeout_s)

    def start_consumer(
        self, group: asyncio.TaskGroup, number: int, predecessor: Consumer | None = None
    ) -> RunningConsumer:
        """Start a consumer: a new member, or the member of a predecessor that was killed."""
        kind = self.plan.kinds[number % len(self.plan.kinds)] if predecessor is None else type(predecessor)
        life = f"{kind.__name__}-{number}-{next(self.lives)}"
        client = self.client(self.plan.losses, SHORT_TIMEOUT_S if self.plan.freezes else LONG_TIMEOUT_S)
        member_id = life if predecessor is None else predecessor.member_id
        consumer = kind(member_id, life, client, self.journal, client.rng, SESSION_MS, errors=self.errors)
        return group.create_task(consumer.run(), name=life), consumer

    async def kill_at_random(self, group: asyncio.TaskGroup, consumers: list[RunningConsumer]) -> None:
        """Kill consumers and nodes while records are processed, let some members leave, and start replacements."""
        rng, step = self.rng, self.plan.flights // (self.plan.rounds + 1)
        for number in range(self.plan.rounds):
            self.allow(step)
            await self.journal.progress(rng.randint(1, step * 3 // 4))
            await pause(rng.uniform(0, 0.1))
            if number % 4 == 1:
                await self.hit_node(rng.choice(self.cluster.up))
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
                consumers[victim] = self.start_consumer(group, victim, consumer if returns else None)
        self.allow(self.plan.flights)

    async def hit_node(self, node: ServerProcess) -> None:
        """Kill a node and start it again, or freeze it for a while."""
        freezes = self.plan.freezes and self.rng.random() < 0.7
        self.kills["frozen" if freezes else "node"] += 1
        if not freezes:
            await self.cluster.kill(node)
            await self.cluster.start(node)
            return
        with frozen(node.pid):
            await pause(self.rng.uniform(0, SESSION_MS / 1000))

    def allow(self, flights: int) -> None:
        """Let so many more flights be produced, so that records are left to process at each kill."""
        self.allowed += flights
        self.allowed_more.set()

    async def produce(self) -> None:
        """Append the flights in order, each batch under a key, as far as they are allowed."""
        client = self.client(self.plan.losses)
        for start in range(0, len(self.flights), BATCH):
            while self.allowed <= start:
                self.allowed_more.clear()
                await self.allowed_more.wait()
            body = "".join(json.dumps(flight) + "\n" for flight in self.flights[start : start + BATCH]).encode()
            path = f"/v1/topics/{TOPIC}/records?lines=values&key_from=/origin"
            answer = await client.call_until_answered("POST", path, body, {"Idempotency-Key": f"batch {start}"})
            assert answer.status in {200, 201}, answer

    async def sample_committed_offsets(self) -> None:
        """Read the committed offsets again and again, until all flights are committed."""
        client = self.client(0.0)
        last: dict[int, int] = {}
        while sum(last.values()) < len(self.flights):
            await pause(SAMPLE_INTERVAL_S)
            floor = dict(self.journal.committed)
            with contextlib.suppress(AnswerLost):
                answer = await client.call("GET", f"/v1/groups/{GROUP}/offsets")
                if answer.status == 404:
                    assert not last
                    continue
                last = self.check_sample(answer.document["offsets"], last, floor)

    def check_sample(
        self, offsets: list[dict[str, Any]], last: dict[int, int], floor: dict[int, int]
    ) -> dict[int, int]:
        """Assert that no committed offset is below the last sample or the floor; return the offsets by partition."""
        found = {one["partition"]: one["committed_offset"] for one in offsets if one["committed_offset"] is not None}
        for partition in last.keys() | floor.keys():
            lowest = max(last.get(partition, 0), floor.get(partition, 0))
            assert found.get(partition, -1) >= lowest, f"{partition}: {found} after {last}, {floor}"
        for partition, offset in found.items():
            self.journal.note_committed(partition, offset)
        self.journal.samples += 1
        return found

    def check_journal(self) -> None:
        """Assert that every flight was processed, those of an origin in the order of production."""
        expected: dict[str, list[int]] = defaultdict(list)
        for flight in self.flights:
            expected[flight["origin"]].append(flight["number"])
        assert self.journal.numbers == expected
        assert sum(self.journal.processed_end.values()) == len(self.flights)
        assert all("Traceback" not in node.log for node in self.cluster.nodes)

    async def check_counts(self) -> None:
        """Assert that the counts of the transactions add up to the input, and that each offset was counted once."""
        async with self.cluster.up[0].client() as client:
            records = [one for each in await read_topic(client, COUNTS, range(PARTITIONS)) for one in each]
        totals: Counter[str] = Counter()
        counted: Counter[tuple[int, int, int]] = Counter()
        for record in records:
            totals[record["key"]] += record["value"]["count"]
            first, end = record["value"]["span"]
            counted[record["value"]["partition"], first, end] += record["value"]["count"]
        assert totals == Counter(flight["origin"] for flight in self.flights)
        ends: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        for (partition, first, end), count in sorted(counted.items()):
            assert (first, end - first) == (ends[partition], count)
            ends[partition] = end
        assert sum(ends.values()) == len(self.flights)

    def summary(self) -> str:
        """Return the numbers of the campaign in a few lines."""
        journal = self.journal
        return (
            f"{len(self.flights)} flights, {journal.processed} processed, {journal.repeats} again, "
            f"{journal.takeovers} takeovers, {journal.samples} samples; killed {dict(self.kills)}\n"
            f"answers {dict(sorted(self.statuses.items()))}\nerrors {dict(self.errors)}"
        )
