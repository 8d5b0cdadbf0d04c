"""A consumer as a process of its own, which a test can freeze. A program, not a module to import.

Arguments: URL, group, topic, member, session in milliseconds. It joins, then sends heartbeats, and prints each answer
as one JSON line. After the first error it makes every call that a member can make at its old epoch, joins again and
ends.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

URL, GROUP, TOPIC, MEMBER, SESSION_MS = sys.argv[1:]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
HEARTBEAT_INTERVAL_S = 0.05
MEMBERS_PATH = f"/v1/groups/{GROUP}/members"
MEMBER_PATH = f"{MEMBERS_PATH}/{MEMBER}"


def call(event: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
    """Send a request, print and return the answer; a error has a `code`."""
    request = urllib.request.Request(  # noqa: S310 - the node of the test
        f"{URL}{path}", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with OPENER.open(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
            status = response.status
    except urllib.error.HTTPError as error:
        answer, status = json.load(error), error.code
    print(json.dumps({"event": event, "status": status} | answer), flush=True)
    return answer


def join() -> dict[str, Any]:
    request = {"topics": [TOPIC], "member_id": MEMBER, "session_timeout_ms": int(SESSION_MS)}
    return call("join", MEMBERS_PATH, request)


def heartbeat(epoch: int, owned: list[dict[str, Any]]) -> dict[str, Any]:
    return call("heartbeat", f"{MEMBER_PATH}/heartbeat", {"member_epoch": epoch, "owned": owned})


def call_everything(epoch: int, owned: list[dict[str, Any]]) -> None:
    """Make every call that a member can make at an epoch."""
    offsets = [
        {"topic": TOPIC, "partition": partition, "from_offset": 0, "offset": 1}
        for one in owned
        for partition in one["partitions"]
    ]
    commit = {"member_id": MEMBER, "member_epoch": epoch, "offsets": offsets}
    call("commit", f"/v1/groups/{GROUP}/offsets", commit)
    produce = {"topic": "results", "records": [{"value": "late"}]}
    call("transaction", "/v1/transactions", {"produce": [produce], "commit": [{"group": GROUP} | commit]})
    call("poll", f"{MEMBER_PATH}/poll", {"member_epoch": epoch, "commit": offsets})
    heartbeat(epoch, owned)


def main() -> None:
    """Run until refused."""
    answer = join()
    while "code" not in answer:
        epoch, owned = answer["member_epoch"], answer["assignment"]
        answer = heartbeat(epoch, owned)
        time.sleep(HEARTBEAT_INTERVAL_S)
    call_everything(epoch, owned)
    join()


if __name__ == "__main__":
    main()
