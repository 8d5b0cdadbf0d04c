"""A consumer as a process of its own, for `test_groups_frozen.py`: it can be frozen.

Arguments: URL, group, topic, member, session in milliseconds. It joins, then beats, reads and commits what it owns
in turns, one JSON line for each answer. When it is refused it tries everything that it might do with its old epoch,
says so, joins again and ends.
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
PAUSE_S = 0.05


def call(event: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
    """Ask, print what was answered, and return it; a refusal has a `code`."""
    request = urllib.request.Request(  # noqa: S310 - the node of the test
        f"{URL}{path}", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with OPENER.open(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
            status = response.status
    except urllib.error.HTTPError as refusal:
        answer, status = json.load(refusal), refusal.code
    print(json.dumps({"event": event, "status": status} | answer), flush=True)
    return answer


def join() -> dict[str, Any]:
    wish = {"topics": [TOPIC], "member_id": MEMBER, "session_timeout_ms": int(SESSION_MS)}
    return call("join", f"/v1/groups/{GROUP}/members", wish)


def try_everything(epoch: int, owned: list[dict[str, Any]], moves: list[dict[str, Any]]) -> None:
    """Do all that a member may do at an epoch."""
    member = {"member_id": MEMBER, "member_epoch": epoch, "offsets": moves}
    path = f"/v1/groups/{GROUP}/members/{MEMBER}"
    call("commit", f"/v1/groups/{GROUP}/offsets", member)
    produce = {"topic": "results", "records": [{"value": "late"}]}
    call("transaction", "/v1/transactions", {"produce": [produce], "commit": [{"group": GROUP} | member]})
    call("poll", f"{path}/poll", {"member_epoch": epoch, "commit": moves})
    call("heartbeat", f"{path}/heartbeat", {"member_epoch": epoch, "owned": owned})


def main() -> None:
    """Run until refused."""
    answer = join()
    epoch, owned = answer["member_epoch"], answer["assignment"]
    while True:
        answer = call(
            "heartbeat", f"/v1/groups/{GROUP}/members/{MEMBER}/heartbeat", {"member_epoch": epoch, "owned": owned}
        )
        if "code" in answer:
            break
        epoch, owned = answer["member_epoch"], answer["assignment"]
        time.sleep(PAUSE_S)
    moves = [
        {"topic": TOPIC, "partition": partition, "from_offset": 0, "offset": 1}
        for one in owned
        for partition in one["partitions"]
    ]
    try_everything(epoch, owned, moves)
    join()


if __name__ == "__main__":
    main()
