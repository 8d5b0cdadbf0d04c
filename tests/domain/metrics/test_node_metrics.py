"""Histograms, and the bound of the topics that are counted by name."""

from __future__ import annotations

from app.domain.metrics.histogram import Histogram
from app.domain.metrics.node_metrics import TopicTable


def test_a_value_counts_for_every_bound_that_is_not_below_it() -> None:
    histogram = Histogram((1.0, 2.5, 10.0))

    for value in (0.0, 1.0, 1.1, 2.5, 10.0, 99.0):
        histogram.observe(value)

    assert histogram.buckets() == [("1.0", 2.0), ("2.5", 4.0), ("10.0", 5.0), ("+Inf", 6.0)]
    assert histogram.sum == 113.6


def test_topics_beyond_the_bound_are_counted_together() -> None:
    counts = TopicTable(most=2)

    for topic in ("a", "b", "c", "d", "a"):
        counts.add(topic, 1, 10)

    assert counts == {"a": [2, 20], "b": [1, 10], "other": [2, 20]}
