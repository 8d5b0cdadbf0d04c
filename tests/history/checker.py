"""The check of a history against all rules.

Source: the Kafka workload of Jepsen (`jepsen.tests.kafka`), for a log with dense offsets, and with groups and queues.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from tests.history import group_rules, log_rules, order_rules, queue_rules
from tests.history.log_view import Anomaly, LogView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.history.events import AnyEvent


def check(history: Sequence[AnyEvent]) -> list[Anomaly]:
    """Return all anomalies of a history whose last events are the final polls of each partition."""
    view = LogView(history)
    return list(
        chain(
            log_rules.lost(view),
            log_rules.inconsistent_offsets(view),
            log_rules.duplicates(view),
            log_rules.early_reads(view),
            log_rules.torn_requests(view),
            log_rules.stale_reads(view),
            log_rules.undeleted_records(view),
            order_rules.sends(view),
            order_rules.polls(view),
            group_rules.owners(history),
            group_rules.zombies(history),
            group_rules.commits(history),
            group_rules.transactions(history, view),
            queue_rules.holders(history),
            queue_rules.order(history),
            queue_rules.undelivered(history, view),
        )
    )


def assert_sound(history: Sequence[AnyEvent]) -> None:
    """Assert that a history has no anomaly."""
    anomalies = check(history)
    assert not anomalies, f"{len(anomalies)} anomalies:\n" + "\n".join(
        f"{rule}: {detail}" for rule, detail in anomalies[:20]
    )
