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
    assert json.loads(cli.ok("queues", "pause", queue).out)["paused"] is True
    changed = json.loads(cli.ok("queues", "alter", queue, "--dead-letter-topic", "").out)
    assert (changed["paused"], changed["dead_letter_topic"]) == (True, None)
    assert "has no dead_letter_topic" in cli.ok("queues", "redrive", queue).err
    assert cli("queues", "alter", queue).code == 2
    assert queue in [json.loads(line)["name"] for line in cli.ok("queues", "list").lines]
    cli.ok("produce", queue, stdin=b"1\n2\n")
    assert json.loads(cli.ok("queues", "purge", queue, "--yes").out) == {"purged": 2}
    assert cli("queues", "delete", queue).code == 2
    cli.ok("queues", "delete", queue, "--yes")
    assert cli("queues", "describe", queue).code == 3
