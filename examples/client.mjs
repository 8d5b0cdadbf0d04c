// Producer, group consumer, queue worker and live tail in one program; needs Node 18 or newer, and no package.
//
//     node examples/client.mjs produce TOPIC < values.ndjson
//     node examples/client.mjs consume TOPIC GROUP [COUNT]
//     node examples/client.mjs work QUEUE TOPIC [COUNT]
//     node examples/client.mjs tail TOPIC [COUNT]
//
// COUNT ends the program after this number of records.
// JSON.parse rounds integers beyond 2^53: produce sends the lines as text, unparsed; send larger integers as strings if
// JavaScript reads them.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

const URL_OF_SERVER = process.env.MILLRACE_URL ?? "http://localhost:8400";
const ATTEMPTS = 10;
const BATCH = 100;
const WAIT_MS = 5_000;

/** Send a request until it has an answer that is not worth a repeat. Send only requests that are safe to repeat. */
async function send(method, path, body, headers = {}) {
  if (body !== undefined && typeof body !== "string") {
    body = JSON.stringify(body);
    headers = { "Content-Type": "application/json", ...headers };
  }
  for (let attempt = 0; ; attempt++) {
    let wait = Math.min(200 * 2 ** attempt, 5_000);
    try {
      const signal = AbortSignal.timeout(WAIT_MS + 15_000);
      const answer = await fetch(URL_OF_SERVER + path, { method, body, headers, signal });
      const text = await answer.text();
      if (answer.ok) return text === "" ? null : JSON.parse(text);
      const problem = JSON.parse(text);
      if (!(problem.retriable || answer.status === 504) || attempt === ATTEMPTS - 1) {
        console.error(`${problem.detail} (${problem.code})`);
        process.exit(1);
      }
      wait = Number(answer.headers.get("Retry-After") ?? wait / 1_000) * 1_000;
    } catch (error) {
      if (attempt === ATTEMPTS - 1) throw error;
    }
    await pause(wait);
  }
}

/** Append each line of standard input as a value: once, also if a request is repeated. */
async function produce(topic) {
  const producer = `example-${randomUUID()}`;
  const { producer_epoch: epoch } = await send("POST", `/v1/producers/${producer}`);
  let sequence = 0;
  let lines = [];
  const flush = async () => {
    await send("POST", `/v1/topics/${topic}/records?lines=values`, lines.join("\n"), {
      "Content-Type": "application/x-ndjson",
      "Producer-Id": producer,
      "Producer-Epoch": String(epoch),
      "Producer-Sequence": String(sequence++),
    });
    lines = [];
  };
  for await (const line of createInterface({ input: process.stdin })) {
    if (lines.push(line) === BATCH) await flush();
  }
  if (lines.length > 0) await flush();
}

/** Print the records of a group's partitions. Each poll commits the records of the poll before it. */
async function consume(topic, group, count) {
  const path = `/v1/groups/${group}/members/example-${randomUUID()}`;
  const poll = { topics: [topic], auto_commit: true, max_wait_ms: WAIT_MS };
  let done = 0;
  while (done < count) {
    for (const record of (await send("POST", `${path}/poll`, poll)).records) {
      console.log(JSON.stringify(record.value));
      done++;
    }
  }
  await send("POST", `${path}/poll`, { ...poll, max_records: 1, max_wait_ms: 0 });
  await send("DELETE", path);
}

/** Work on the records of a queue; a record whose work fails comes back, and at last becomes a dead letter. */
async function work(queue, topic, count) {
  let done = 0;
  while (done < count) {
    const acquire = { topic, max_records: 10, max_wait_ms: WAIT_MS };
    for (const delivery of (await send("POST", `/v1/queues/${queue}/acquire`, acquire)).deliveries) {
      let outcome = { outcome: "accept" };
      try {
        console.log(JSON.stringify(delivery.record.value)); // the work
      } catch {
        outcome = { outcome: "release", delay_ms: 1_000 };
      }
      const acknowledgements = [{ delivery_id: delivery.delivery_id, ...outcome }];
      await send("POST", `/v1/queues/${queue}/acknowledge`, { acknowledgements });
      done++;
    }
  }
}

/** Print the records of a topic, from its start and as they arrive; continue after a lost connection. */
async function tail(topic, count) {
  const headers = { Accept: "text/event-stream" };
  for (let done = 0; ; await pause(1_000)) {
    try {
      const answer = await fetch(`${URL_OF_SERVER}/v1/topics/${topic}/records?offset=earliest`, { headers });
      if (!answer.ok) {
        console.error(`${topic}: HTTP ${answer.status}`);
        process.exit(1);
      }
      let text = "";
      for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
        const events = (text + part).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
          if (fields.event === "error") {
            if (JSON.parse(fields.data).retriable) break;
            console.error(fields.data);
            process.exit(1);
          }
          if (fields.id !== undefined) headers["Last-Event-ID"] = fields.id;
          if (fields.data === undefined) continue;
          console.log(JSON.stringify(JSON.parse(fields.data).value));
          if (++done === count) process.exit(0);
        }
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // fetch reports a lost connection as a TypeError
    }
  }
}

const commands = { produce: [produce, 1], consume: [consume, 2], work: [work, 2], tail: [tail, 1] };
const [command, ...names] = process.argv.slice(2);
const [run, number] = commands[command] ?? [];
if (run === undefined || names.length < number) {
  console.error("usage: client.mjs produce TOPIC | consume TOPIC GROUP [COUNT] | work QUEUE TOPIC [COUNT] | tail TOPIC [COUNT]");
  process.exit(2);
}
await run(...names.slice(0, number), Number(names[number] ?? Infinity));
