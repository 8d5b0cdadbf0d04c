"""Producer, group consumer, queue worker and live tail in one program; needs httpx2 only.

    python examples/client.py produce TOPIC < values.ndjson
    python examples/client.py consume TOPIC GROUP [COUNT]
    python examples/client.py work QUEUE TOPIC [COUNT]
    python examples/client.py tail TOPIC [COUNT]

COUNT ends the program after this number of records.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx2

URL = os.environ.get("MILLRACE_URL", "http://localhost:8400")
ATTEMPTS = 10
BATCH = 100
WAIT_MS = 5_000


def send(client: httpx2.Client, method: str, path: str, **request: Any) -> Any:  # noqa: ANN401 - JSON
    """Send a request until it has an answer that is not worth a repeat. Send only requests that are safe to repeat."""
    for attempt in range(ATTEMPTS):
        pause = min(0.2 * 2**attempt, 5.0)
        try:
            answer = client.request(method, path, **request)
        except httpx2.TransportError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            if answer.is_success:
                return answer.json() if answer.content else None
            problem = answer.json()
            is_unknown = answer.status_code == 504
            if not (problem.get("retriable") or is_unknown) or attempt == ATTEMPTS - 1:
                sys.exit(f"{problem['detail']} ({problem['code']})")
            pause = float(answer.headers.get("Retry-After", pause))
        time.sleep(pause)
    return None


def produce(client: httpx2.Client, topic: str) -> None:
    """Append each line of standard input as a value: once, also if a request is repeated."""
    producer_id = f"example-{uuid.uuid4()}"
    epoch = send(client, "POST", f"/v1/producers/{producer_id}")["producer_epoch"]
    sequence = 0
    while lines := list(islice(sys.stdin, BATCH)):
        headers = {
            "Content-Type": "application/x-ndjson",
            "Producer-Id": producer_id,
            "Producer-Epoch": str(epoch),
            "Producer-Sequence": str(sequence),
        }
        path = f"/v1/topics/{topic}/records?lines=values"
        send(client, "POST", path, content="".join(lines).encode(), headers=headers)
        sequence += 1


def consume(client: httpx2.Client, topic: str, group: str, count: int) -> None:
    """Print the records of a group's partitions. Each poll commits the records of the poll before it."""
    path = f"/v1/groups/{group}/members/example-{uuid.uuid4()}"
    poll = {"topics": [topic], "auto_commit": True, "max_wait_ms": WAIT_MS}
    done = 0
    while done < count:
        for record in send(client, "POST", f"{path}/poll", json=poll)["records"]:
            print(json.dumps(record["value"]), flush=True)
            done += 1
    send(client, "POST", f"{path}/poll", json={**poll, "max_records": 1, "max_wait_ms": 0})
    send(client, "DELETE", path)


def work(client: httpx2.Client, queue: str, topic: str, count: int) -> None:
    """Work on the records of a queue; a record whose work fails comes back, and at last becomes a dead letter."""
    done = 0
    acquire = {"topic": topic, "max_records": 10, "max_wait_ms": WAIT_MS}
    while done < count:
        for delivery in send(client, "POST", f"/v1/queues/{queue}/acquire", json=acquire)["deliveries"]:
            try:
                print(json.dumps(delivery["record"]["value"]), flush=True)  # the work
                outcome = {"outcome": "accept"}
            except OSError:
                outcome = {"outcome": "release", "delay_ms": 1_000}
            outcomes = [{"delivery_id": delivery["delivery_id"], **outcome}]
            send(client, "POST", f"/v1/queues/{queue}/acknowledge", json={"acknowledgements": outcomes})
            done += 1


def tail(client: httpx2.Client, topic: str, count: int) -> None:
    """Print the records of a topic, from its start and as they arrive; continue after a lost connection."""
    position: dict[str, str] = {}
    done = 0
    while done < count:
        headers = {"Accept": "text/event-stream", **position}
        try:
            with client.stream("GET", f"/v1/topics/{topic}/records?offset=earliest", headers=headers) as answer:
                if answer.status_code != 200:
                    sys.exit(f"{topic}: HTTP {answer.status_code}")
                for event in events(answer.iter_lines()):
                    if event.get("event") == "error":
                        if json.loads(event["data"])["retriable"]:
                            break
                        sys.exit(event["data"])
                    if "id" in event:
                        position = {"Last-Event-ID": event["id"]}
                    if "data" in event:
                        print(json.dumps(json.loads(event["data"])["value"]), flush=True)
                        done += 1
                    if done == count:
                        return
        except httpx2.TransportError:
            pass
        time.sleep(1)


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Yield the fields of each event of a stream."""
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            event[name] = value.removeprefix(" ")
        elif not line:
            yield event
            event = {}


def main() -> None:
    """Run the command of the arguments."""
    commands = {"produce": (produce, 1), "consume": (consume, 2), "work": (work, 2), "tail": (tail, 1)}
    command, *names = sys.argv[1:] or [""]
    if command not in commands or len(names) < commands[command][1]:
        sys.exit(__doc__)
    function, number = commands[command]
    counts = [] if command == "produce" else [int(names[number]) if len(names) > number else sys.maxsize]
    with httpx2.Client(base_url=URL, timeout=WAIT_MS / 1_000 + 15) as client:
        function(client, *names[:number], *counts)  # type: ignore[operator] # the arguments fit the command


if __name__ == "__main__":
    main()
