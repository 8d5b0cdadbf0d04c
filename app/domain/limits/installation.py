"""How many things an installation may have."""

from __future__ import annotations

from typing import NamedTuple


class InstallationLimits(NamedTuple):
    """The maximum numbers; each has a setting of its name."""

    max_topics: int = 50_000
    max_partitions: int = 200_000
    max_queues: int = 10_000
    max_sources: int = 10_000
    max_webhooks: int = 1_000
