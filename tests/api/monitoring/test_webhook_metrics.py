"""What `/metrics` says of webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.webhooks.calls import NEVER, change, create, produce
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


async def metrics(client: httpx2.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("millrace_webhook")]
    return {name.removeprefix("millrace_webhook_"): float(value) for name, _, value in found}


async def shown(client: httpx2.AsyncClient, **expected: float) -> None:
    """Wait until the metrics are these: those of the webhook without its label."""
    names = {name: f'{name}{{webhook="billing"}}' for name in ("lag_records", "retrying_records", "breaker_open")}
    wanted = {names.get(name, name): value for name, value in expected.items()}
    await until(lambda: metrics(client), lambda found: wanted.items() <= found.items())


async def test_metrics_count_attempts_and_the_records_that_have_not_ended(serve: Serve, migrated_url: str) -> None:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    assert await metrics(client) == {"attempt_seconds_total": 0}
    async with receiving(lambda post: Answer(500 if post.body == b"0" else 200)) as receiver:
        await create(client, receiver.url, ordering="none", retry_delays_ms=NEVER, paused=True)
        await produce(client, *({"value": number} for number in range(40)))
        await shown(client, lag_records=40, retrying_records=0)
        await change(client, paused=False)
        await shown(client, lag_records=1, retrying_records=1, breaker_open=0)
    found = await metrics(client)
    assert (found['attempts_total{outcome="delivered"}'], found['attempts_total{outcome="failed"}']) == (39, 1)
