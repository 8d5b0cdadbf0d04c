"""Short runs of producers and readers. Each ends with the final polls, and is sound without a planted fault."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.broker.node import parked
from tests.history.events import Release
from tests.history.log_clients import Producer, Reader, final_polls, trim
from tests.history.recorder import losing
from tests.waiting import until_true

if TYPE_CHECKING:
    from tests.history.planted.cluster import Cluster

TOPIC = "orders"
RECORDS = f"/v1/topics/{TOPIC}/partitions/0/records"


async def create_topic(cluster: Cluster, partitions: int = 1, topic: str = TOPIC) -> None:
    """Create a topic, and let both nodes read it."""
    await cluster.calls[0]("PUT", f"/v1/topics/{topic}", {"partitions": partitions})
    for call in cluster.calls:
        await call("GET", f"/v1/topics/{topic}/records")


async def produce_and_read(cluster: Cluster) -> None:
    """Send, lose answers, repeat, and read in small pages."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await create_topic(cluster, 2)
    plain = Producer(recorder, call, "plain", TOPIC)
    await plain.attempt(plain.next_values(3), [0, 0, 1])
    reader = Reader(recorder, call, "reader", TOPIC)
    await reader.poll(2)
    cluster.reach("polled")
    for kind in ("key", "sequence"):
        producer = Producer(recorder, call, kind, TOPIC, kind)
        for _ in range(2):
            values = producer.next_values(2)
            await producer.attempt(values, [0, 1], call=losing(call))
            await producer.attempt(values, [0, 1])
    others = [Producer(recorder, call, f"plain-{number}", TOPIC) for number in range(4)]
    await asyncio.gather(*(other.attempt(other.next_values(2), [0, 0]) for other in others))
    await reader.read_to_end(max_records=2)
    await plain.attempt(plain.next_values(4), [0, 0, 0, 0])
    await reader.read_to_end()
    await final_polls(recorder, call, TOPIC, range(2))


async def refused_sends(cluster: Cluster) -> None:
    """Send under a condition that does not hold, read, and send again; send at the epoch of a fenced producer."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await create_topic(cluster)
    plain = Producer(recorder, call, "plain", TOPIC)
    await plain.attempt(plain.next_values(), [0])
    reader = Reader(recorder, call, "reader", TOPIC)
    for _ in range(2):
        values = plain.next_values()
        await plain.attempt(values, [0], path=RECORDS, query="?expected_offset=100")
        await reader.read_to_end()
    await plain.attempt(values, [0])
    old = Producer(recorder, call, "old", TOPIC, "sequence")
    await old.attempt(old.next_values(), [0])
    await recorder.run(call, "POST", "/v1/producers/p")
    now = recorder.now()
    recorder.add(Release(process="old", group="", began=now, ended=now))
    new = Producer(recorder, call, "new", TOPIC, "sequence")
    new.epoch = 1
    await new.attempt(new.next_values(), [0])
    await old.attempt(old.next_values(), [0])
    await final_polls(recorder, call, TOPIC, [0])


async def deleted_records(cluster: Cluster) -> None:
    """Delete the first records, and read from the offset of a deleted one."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await create_topic(cluster)
    plain = Producer(recorder, call, "plain", TOPIC)
    await plain.attempt(plain.next_values(6), [0] * 6)
    await trim(recorder, call, TOPIC, 0, 3)
    reader = Reader(recorder, call, "reader", TOPIC)
    await reader.poll()
    await plain.attempt(plain.next_values(2), [0, 0])
    await final_polls(recorder, call, TOPIC, [0])


async def parked_read(cluster: Cluster) -> None:
    """Wait for a record on one node that is sent on the other."""
    recorder = cluster.recorder
    await create_topic(cluster)
    await until_true(lambda: all(each.services.signals.receives_all for each in cluster.applications))
    reader = Reader(recorder, cluster.calls[0], "reader", TOPIC)
    began = recorder.now()
    reading = asyncio.create_task(reader.poll(wait_ms=60_000))
    await parked(cluster.applications[0].services)
    plain = Producer(recorder, cluster.calls[1], "plain", TOPIC)
    await plain.attempt(plain.next_values(), [0])
    done, _ = await asyncio.wait([reading], timeout=cluster.patience_s)
    if not done:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        reader.give_up(began)
    await final_polls(recorder, cluster.calls[0], TOPIC, [0])


async def lost_commit(cluster: Cluster) -> None:
    """Lose a commit, send again, and read."""
    recorder, call = cluster.recorder, cluster.calls[0]
    await create_topic(cluster, 2)
    plain = Producer(recorder, call, "plain", TOPIC)
    await plain.attempt(plain.next_values(2), [0, 1])
    cluster.lose_next_commit()
    await plain.attempt(plain.next_values(4), [0, 0, 1, 1])
    await plain.attempt(plain.next_values(2), [0, 1])
    for partition in range(2):
        await Reader(recorder, call, f"reader-{partition}", TOPIC, partition).read_to_end(max_records=2)
    await final_polls(recorder, call, TOPIC, range(2))


async def two_nodes(cluster: Cluster) -> None:
    """Send to one partition through both nodes at once, and read meanwhile."""
    recorder = cluster.recorder
    await create_topic(cluster)
    one, other = (Producer(recorder, call, f"node-{n}", TOPIC) for n, call in enumerate(cluster.calls))
    sending = [asyncio.create_task(each.attempt(each.next_values(), [0])) for each in (one, other)]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    await Reader(recorder, cluster.calls[1], "reader", TOPIC).poll()
    cluster.reach("polled")
    await asyncio.gather(*sending)
    for producer in (other, one, other, one):
        await producer.attempt(producer.next_values(2), [0, 0])
    await Reader(recorder, cluster.calls[0], "late reader", TOPIC).read_to_end(max_records=2)
    await final_polls(recorder, cluster.calls[0], TOPIC, [0])
