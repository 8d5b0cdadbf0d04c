"""Metrics that are read from the database at a scrape: all nodes report the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric

from app.api.monitoring.families import gauge, gauges
from app.broker.observation.readings import Readings


def database_metrics(found: Readings | None, prefix: str, most_partitions: int) -> Iterator[Metric]:
    """Return the metrics of a reading; without one, only that the database does not answer.

    Args:
        found: The reading, or None.
        prefix: What the names of the metrics of groups begin with.
        most_partitions: Partitions with series of their own; groups beyond have only their sums.
    """
    yield gauge("database_up", "1 if the database answered this scrape in time.", float(found is not None))
    if found is None:
        return
    yield gauge(
        "scrape_complete", "1 if no group and no queue was left out for lack of time or rows.", float(found.complete)
    )
    for each in found.gauges:
        yield gauge(each.name, each.meaning, each.value)
    yield from _groups(found, f"{prefix}_consumergroup", most_partitions)
    yield gauges(
        "millrace_queue_depth_records",
        "Records of a queue that have not ended: waiting, delayed, acquired.",
        ("queue",),
        (((each.queue,), each.records) for each in found.depths),
    )
    yield gauges(
        "millrace_queue_oldest_record_seconds",
        "Age of the oldest record of a queue that has not ended, delayed ones excluded.",
        ("queue",),
        (((each.queue,), each.oldest_age_ms / 1_000) for each in found.depths),
    )
    yield gauges(
        "millrace_webhook_lag_records",
        "Records that have not ended: waiting, retried, in flight.",
        ("webhook",),
        (((name,), number) for name, number in found.webhooks.items()),
    )


def _groups(found: Readings, prefix: str, most_partitions: int) -> Iterator[Metric]:
    yield gauges(
        f"{prefix}_members",
        "Members of a group.",
        ("consumergroup",),
        (((group,), number) for group, number in found.members),
    )
    sums: Counter[tuple[str, str]] = Counter()
    ages: dict[tuple[str, str], int] = {}
    for each in found.lags:
        of = (each.group, each.topic)
        sums[of] += each.lag
        ages[of] = max(ages.get(of, 0), each.lag_ms)
    yield gauges(
        f"{prefix}_lag_sum",
        "Records of a topic that a group has not committed.",
        ("consumergroup", "topic"),
        sums.items(),
    )
    yield gauges(
        f"{prefix}_lag_seconds",
        "Age of the oldest record of a topic that a group has not committed.",
        ("consumergroup", "topic"),
        ((of, age_ms / 1_000) for of, age_ms in ages.items()),
    )
    sizes = Counter(each.group for each in found.lags)
    shown: set[str] = set()
    for group, size in sizes.items():
        if (most_partitions := most_partitions - size) < 0:
            break
        shown.add(group)
    labels = ("consumergroup", "topic", "partition")
    details = [each for each in found.lags if each.group in shown]
    yield gauges(
        f"{prefix}_lag",
        "Records of a partition that a group has not committed.",
        labels,
        (((each.group, each.topic, str(each.partition)), each.lag) for each in details),
    )
    yield gauges(
        f"{prefix}_current_offset",
        "Committed offset of a group in a partition.",
        labels,
        (((each.group, each.topic, str(each.partition)), each.committed_offset) for each in details),
    )
