"""How many records wait for each webhook."""

from __future__ import annotations

from collections import Counter

from app.storage.db.transaction import Tx
from app.storage.queues import depths
from app.storage.webhooks.webhooks import QUEUE_PREFIX

HIDDEN_QUEUES = (QUEUE_PREFIX, QUEUE_PREFIX[:-1] + ";")
"""The names of the queues of webhooks: from the first to below the second."""


def unfinished(tx: Tx) -> Counter[str]:
    """Return how many records have not ended for each webhook, by its name: in one query, without their states."""
    found: Counter[str] = Counter()
    for each in depths.named(tx, *HIDDEN_QUEUES):
        found[each.queue.split(":")[1]] += each.records
    return found
