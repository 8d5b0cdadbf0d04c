// A client that @hey-api/openapi-ts generated: create a topic, produce, fetch, poll, and meet a refusal.
import { client } from "./hey/client.gen";
import { createTopic, fetchPartition, getTopic, poll, produce, type Problem } from "./hey";

client.setConfig({ baseUrl: process.argv[2] });

type Order = { item: string };

/** Return the data of an answer, or throw the problem. */
function expect<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.error) throw new Error(`${answer.error.code}: ${answer.error.detail}`);
  return answer.data as T;
}

const created = expect(await createTopic({ path: { topic: "orders-hey" }, body: { partitions: 2 } }));
console.log("created", created.name, "with", created.partitions, "partitions");

const produced = expect(
  await produce({
    path: { topic: "orders-hey" },
    headers: { "Idempotency-Key": "order-1" },
    body: {
      records: [
        { key: "alice", partition: 0, value: { item: "book" } },
        { key: "bob", partition: 0, value: { item: "lamp" } },
      ],
    },
  }),
);
for (const place of produced.offsets ?? []) {
  console.log("appended at", place.partition, place.offset);
}

const page = expect(
  await fetchPartition({ path: { topic: "orders-hey", partition: 0 }, query: { offset: "earliest" } }),
);
if (typeof page === "string") throw new Error("the answer is JSON, unless the request accepts something else");
for (const record of page.records) {
  console.log("fetched", record.offset, record.key, (record.value as Order).item);
}

const polled = expect(
  await poll({
    path: { group: "billing-hey", member_id: "member-1" },
    body: { topics: ["orders-hey"], auto_commit: true },
  }),
);
for (const record of polled.records) {
  console.log("polled", record.topic, record.offset, (record.value as Order).item);
}

const { error } = await getTopic({ path: { topic: "no-such-topic" } });
if (error?.code === "UNKNOWN_TOPIC_OR_PARTITION") console.log("refused", error.code, error.status);
