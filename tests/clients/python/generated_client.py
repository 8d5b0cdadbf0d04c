"""A client that openapi-python-client generated: create a topic, produce, fetch, poll, and meet a refusal."""

import sys

from millrace_client import Client
from millrace_client.api.members import poll
from millrace_client.api.records import fetch_partition, produce
from millrace_client.api.topics import create_topic, get_topic
from millrace_client.models import (
    FetchAnswer,
    PollAnswer,
    PollBody,
    Problem,
    ProblemCode,
    ProduceAnswer,
    ProduceBody,
    RecordIn,
    TopicAnswer,
    TopicChange,
)

client = Client(base_url=sys.argv[1])

created = create_topic.sync("orders-python", client=client, body=TopicChange(partitions=2))
assert isinstance(created, TopicAnswer), created
print("created", created.name, "with", created.partitions, "partitions")

records = [
    RecordIn(key="alice", partition=0, value={"item": "book"}),
    RecordIn(key="bob", partition=0, value={"item": "lamp"}),
]
produced = produce.sync("orders-python", client=client, body=ProduceBody(records=records), idempotency_key="order-1")
assert isinstance(produced, ProduceAnswer), produced
for place in produced.offsets or []:
    print("appended at", place.partition, place.offset)

page = fetch_partition.sync("orders-python", 0, client=client, offset="earliest")
assert isinstance(page, FetchAnswer), page
for record in page.records:
    print("fetched", record.offset, record.key, record.value["item"])

body = PollBody(topics=["orders-python"], auto_commit=True)
polled = poll.sync("billing-python", "member-1", client=client, body=body)
assert isinstance(polled, PollAnswer), polled
for record in polled.records:
    print("polled", record.topic, record.offset, record.value["item"])

refusal = get_topic.sync("no-such-topic", client=client)
if isinstance(refusal, Problem) and refusal.code is ProblemCode.UNKNOWN_TOPIC_OR_PARTITION:
    print("refused", refusal.code, refusal.status)
