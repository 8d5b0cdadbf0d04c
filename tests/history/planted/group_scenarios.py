"""Short runs of group members and of queue workers. Each is sound without a planted fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.history.group_clients import Member, Worker, final_offsets
from tests.history.log_clients import Producer, Reader, final_polls
from tests.history.planted.log_scenarios import TOPIC, create_topic
from tests.history.recorder import losing
from tests.waiting import pause

if TYPE_CHECKING:
    from tests.history.planted.cluster import Cluster

OUTPUT = "totals"
GROUP = "billing"
LOCK_MS = 1_000
ROUNDS = 200
SILENT_ROUNDS = 30


async def fill(cluster: Cluster, partitions: int, records: int) -> None:
    """Create the topic, with records in each partition."""
    await create_topic(cluster, partitions)
    producer = Producer(cluster.recorder, cluster.calls[0], "plain", TOPIC)
    for partition in range(partitions):
        await producer.attempt(producer.next_values(records), [partition] * records)


async def until_assigned(member: Member, partitions: int) -> None:
    """Poll without waiting until the member has so many partitions, or give up."""
    for _ in range(ROUNDS):
        result = await member.poll(1)
        found = sum(len(one["partitions"]) for one in result.document.get("assignment", ()))
        if result.outcome != "ok" or found == partitions:
            return
        await pause(0.01)


async def members(cluster: Cluster) -> None:
    """Poll and commit, take over the member id of another process, and share the partitions with a new member."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await fill(cluster, 2, 6)
    alice = Member(recorder, call, "alice", TOPIC)
    await alice.join()
    await until_assigned(alice, 2)
    for _ in range(2):
        await alice.poll(2)
        await alice.commit()
    await alice.poll(2)
    successor = Member(recorder, cluster.calls[1], "successor", TOPIC, member_id="alice")
    alice.released()
    await successor.join()
    await alice.commit()
    await alice.poll(2)
    await successor.poll(2)
    await successor.commit()
    bob = Member(recorder, cluster.calls[1], "bob", TOPIC)
    await bob.join()
    for _ in range(ROUNDS):
        await successor.poll(1)
        result = await bob.poll(1)
        if result.outcome != "ok" or result.document["assignment"]:
            break
        await pause(0.01)
    await bob.commit()
    await successor.poll(2)
    await final_polls(recorder, call, TOPIC, range(2))


async def silent_member(cluster: Cluster) -> None:
    """Let a new member poll while the holder of all partitions is silent, well within its session."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await fill(cluster, 2, 2)
    alice = Member(recorder, call, "alice", TOPIC)
    await alice.join()
    await until_assigned(alice, 2)
    bob = Member(recorder, cluster.calls[1], "bob", TOPIC)
    await bob.join()
    for _ in range(SILENT_ROUNDS):
        result = await bob.poll(1)
        if result.outcome != "ok" or result.document["assignment"]:
            break
        await pause(0.01)
    await final_polls(recorder, call, TOPIC, range(2))


async def automatic_commits(cluster: Cluster) -> None:
    """Poll with `auto_commit`, lose the answer, and go on as another process."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await fill(cluster, 1, 6)
    request: dict[str, Any] = {"topics": [TOPIC], "auto_commit": True}
    carol = Member(recorder, call, "carol", TOPIC)
    await carol.poll(2, 5_000, **request)
    await carol.poll(2, call=losing(call), **request)
    carol.released()
    dave = Member(recorder, call, "dave", TOPIC, member_id="carol")
    await dave.poll(2, 5_000, **request | {"auto_commit": False})
    await final_polls(recorder, call, TOPIC, [0])


async def transactions(cluster: Cluster) -> None:
    """Consume and produce in transactions whose answers are lost, with and without a key, and one that is refused."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await fill(cluster, 1, 6)
    await create_topic(cluster, topic=OUTPUT)
    alice = Member(recorder, call, "alice", TOPIC)
    await alice.join()
    await until_assigned(alice, 1)
    for number, key in enumerate(("first", None)):
        await alice.poll(2)
        await alice.transact(OUTPUT, [f"sum-{number}"], call=losing(call), key=key)
        await alice.transact(OUTPUT, [f"sum-{number}" if key else f"again-{number}"], key=key)
    await alice.transact(OUTPUT, ["refused"])
    await Reader(recorder, call, "reader", OUTPUT).read_to_end()
    await alice.poll(2)
    await alice.transact(OUTPUT, ["sum-2"])
    await final_offsets(recorder, call, GROUP)
    await final_polls(recorder, call, TOPIC, [0])
    await final_polls(recorder, call, OUTPUT, [0])


async def queue(cluster: Cluster) -> None:
    """Let locks expire, acknowledge late, and work until the queue is empty."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await fill(cluster, 1, 4)
    await call("PUT", "/v1/queues/jobs", {"topic": TOPIC, "lock_duration_ms": LOCK_MS})
    slow = Worker(recorder, call, "slow", "jobs", TOPIC, LOCK_MS)
    quick = Worker(recorder, cluster.calls[1], "quick", "jobs", TOPIC, LOCK_MS)
    held = await slow.acquire(2)
    await quick.acquire(1)
    await cluster.pass_time(LOCK_MS + 100)
    taken = await quick.acquire(2)
    await slow.acknowledge(held)
    await quick.acknowledge(taken)
    for _ in range(10):
        found = await quick.acquire(drains=True)
        if not found:
            break
        await quick.acknowledge(found)
    await final_polls(recorder, call, TOPIC, [0])


async def queue_by_key(cluster: Cluster) -> None:
    """Work on a queue that is ordered by key, and release a record that others of its key wait for."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await create_topic(cluster)
    producer = Producer(recorder, call, "plain", TOPIC)
    producer.key = "k"
    await producer.attempt(producer.next_values(3), [0] * 3)
    await call("PUT", "/v1/queues/jobs", {"topic": TOPIC, "lock_duration_ms": LOCK_MS, "ordering": "key"})
    workers = [Worker(recorder, call, name, "jobs", TOPIC, LOCK_MS) for name in ("one", "two")]
    for worker in workers:
        worker.ordering = "key"
    one, two = workers
    held = await one.acquire(1)
    await cluster.pass_time(10)
    await two.acknowledge(await two.acquire(1))
    await one.acknowledge(held, ["release"] * len(held))
    await cluster.pass_time(10)
    for _ in range(10):
        found = await one.acquire(drains=True)
        if not found:
            break
        await one.acknowledge(found)
    await final_polls(recorder, call, TOPIC, [0])
