"""Families of metrics, made from what the node counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from app.domain.metrics.histogram import Histogram

Sample = tuple[tuple[str, ...], float]
"""The values of the labels, and of the metric."""


def counter(name: str, meaning: str, value: float) -> CounterMetricFamily:
    """Return a counter without labels."""
    return CounterMetricFamily(f"millrace_{name}", meaning, value=value)


def gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without labels."""
    return GaugeMetricFamily(f"millrace_{name}", meaning, value=value)


def counters(name: str, meaning: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> CounterMetricFamily:
    """Return a counter with labels."""
    family = CounterMetricFamily(f"millrace_{name}", meaning, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def gauges(name: str, meaning: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> GaugeMetricFamily:
    """Return a gauge with labels; the name is whole."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def histograms(
    name: str, meaning: str, labels: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], Histogram]]
) -> HistogramMetricFamily:
    """Return a histogram with labels; one that counted nothing is left out."""
    family = HistogramMetricFamily(f"millrace_{name}", meaning, labels=labels)
    for values, histogram in found:
        if any(histogram.counts):
            family.add_metric(values, histogram.buckets(), histogram.sum)
    return family
