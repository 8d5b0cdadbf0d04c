"""A scrape of `/metrics`, parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    import httpx2


async def scrape(client: httpx2.AsyncClient) -> dict[str, float]:
    """Return the values of all series, each as Prometheus writes it: `name{label="value"}`, labels in order."""
    text = (await client.get("/metrics")).text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def names(client: httpx2.AsyncClient) -> set[str]:
    """Return the names of all metrics, also of those without a series now."""
    lines = (await client.get("/metrics")).text.splitlines()
    return {line.split()[2] for line in lines if line.startswith("# TYPE ")}
