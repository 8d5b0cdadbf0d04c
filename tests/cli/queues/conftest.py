"""A queue over a topic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.processes import Cli


@pytest.fixture
def queue(cli: Cli, topic: str) -> str:
    """A queue with the name of its topic, two deliveries and a dead letter topic."""
    cli.ok("topics", "create", topic, "-p", "1")
    cli.ok("queues", "create", topic, topic, "--max-delivery-count", "2", "--dead-letter-topic", f"{topic}-dead")
    return topic
