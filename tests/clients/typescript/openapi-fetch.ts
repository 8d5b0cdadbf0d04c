// A client of openapi-fetch with the types of openapi-typescript: create a topic, produce, fetch, poll, and meet a refusal.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

const client = createClient<paths>({ baseUrl: process.argv[2] });

type Order = { item: string };

/** Return the data of an answer, or throw the problem. */
function expect<T>(answer: { data?: T; error?: components["schemas"]["Problem"] }): T {
  if (answer.error) throw new Error(`${answer.error.code}: ${answer.error.detail}`);
  return answer.data as T;
}

const created = expect(
  await client.PUT("/v1/topics/{topic}", {
    params: { path: { topic: "orders-fetch" } },
    body: { partitions: 2 },
  }),
);
console.log("created", created.name, "with", created.partitions, "partitions");

const produced = expect(
  await client.POST("/v1/topics/{topic}/records", {
    params: { path: { topic: "orders-fetch" }, header: { "Idempotency-Key": "order-1" } },
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
  await client.GET("/v1/topics/{topic}/partitions/{partition}/records", {
    params: { path: { topic: "orders-fetch", partition: 0 }, query: { offset: "earliest" } },
  }),
);
if (typeof page === "string") throw new Error("the answer is JSON, unless the request accepts something else");
for (const record of page.records) {
  console.log("fetched", record.offset, record.key, (record.value as Order).item);
}

const polled = expect(
  await client.POST("/v1/groups/{group}/members/{member_id}/poll", {
    params: { path: { group: "billing-fetch", member_id: "member-1" } },
    body: { topics: ["orders-fetch"], auto_commit: true },
  }),
);
for (const record of polled.records) {
  console.log("polled", record.topic, record.offset, (record.value as Order).item);
}

const { error } = await client.GET("/v1/topics/{topic}", { params: { path: { topic: "no-such-topic" } } });
if (error?.code === "UNKNOWN_TOPIC_OR_PARTITION") console.log("refused", error.code, error.status);
