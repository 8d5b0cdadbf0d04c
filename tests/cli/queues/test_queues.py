"""`millrace queues`: create, alter, pause, list, redrive, purge and delete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.processes import Cli


def test_a_queue_is_created_altered_listed_purged_and_deleted(cli: Cli, queue: str) -> None:
    assert cli.ok("queues", "create", queue, queue).err == f"millrace: {queue} already exists\n"
    assert cli("queues", "create", queue, "other").code == 4
    typo = cli.ok("queues", "create", f"{queue}-audit", f"{queue}-typo", "--dead-letter-topic", f"{queue}-dead")
    assert typo.err == f"millrace: created {queue}-audit and the topic {queue}-typo, which did not exist\n"
    assert "created_topics" not in json.loads(typo.out)
    changed = cli.ok("queues", "alter", f"{queue}-audit", "--dead-letter-topic", f"{queue}-daed")
    assert changed.err == f"millrace: created the topic {queue}-daed, which did not exist\n"
    in_seconds = cli.ok("queues", "alter", f"{queue}-audit", "--lock-duration-ms", "3600")
    assert "warning: lock_duration_ms is 3.6 seconds" in in_seconds.err
    assert json.loads(cli.ok("queues", "pause", queue).out)["paused"] is True
    detached = json.loads(cli.ok("queues", "alter", queue, "--dead-letter-topic", "").out)
    assert (detached["paused"], detached["dead_letter_topic"]) == (True, None)
    assert "has no dead_letter_topic" in cli.ok("queues", "redrive", queue).err
    assert cli("queues", "alter", queue).code == 2
    assert queue in [json.loads(line)["name"] for line in cli.ok("queues", "list").lines]
    cli.ok("produce", queue, stdin=b"1\n2\n")
    assert json.loads(cli.ok("queues", "purge", queue, "--yes").out) == {"purged": 2}
    assert cli("queues", "delete", queue).code == 2
    cli.ok("queues", "delete", queue, "--yes")
    assert cli("queues", "describe", queue).code == 3
