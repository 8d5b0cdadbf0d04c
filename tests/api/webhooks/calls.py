"""Calls of the webhook `billing` that tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

URL = "/v1/webhooks/billing"
NEVER = [3_600_000]
"""Retry delays that do not end within a test."""


async def create(client: httpx2.AsyncClient, url: str, **settings: Any) -> Any:
    """Create the webhook, by default over the topic `orders`, and return the answer."""
    defaults: dict[str, Any] = {"url": url, "retry_delays_ms": [20, 20]}
    if "topic_pattern" not in settings:
        defaults["topics"] = ["orders"]
    answer = await client.put(URL, json=defaults | settings)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def change(client: httpx2.AsyncClient, **settings: Any) -> Any:
    """Change the webhook, and return the answer."""
    answer = await client.patch(URL, json=settings)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def produce(client: httpx2.AsyncClient, *records: dict[str, Any], topic: str = "orders") -> None:
    """Append records."""
    answer = await client.post(f"/v1/topics/{topic}/records", json={"records": list(records)})
    assert answer.status_code == 201, answer.text


async def describe(client: httpx2.AsyncClient) -> Any:
    """Return the description of the webhook."""
    answer = await client.get(URL)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def counts(client: httpx2.AsyncClient) -> dict[str, int]:
    """Return the counts of the webhook."""
    found: dict[str, int] = (await describe(client))["counts"]
    return found


async def settled(client: httpx2.AsyncClient, **expected: int) -> None:
    """Wait until the counts of the webhook are these, and the others are 0."""
    zero = dict.fromkeys(await counts(client), 0)
    await until(lambda: counts(client), lambda found: found == zero | expected)


async def shows(client: httpx2.AsyncClient, **expected: Any) -> Any:
    """Wait until the description has these fields, and return it."""
    return await until(lambda: describe(client), lambda found: {name: found[name] for name in expected} == expected)


async def attempts(client: httpx2.AsyncClient, number: int, **query: Any) -> list[Any]:
    """Return the attempts, the last one first, once there are so many."""

    async def found() -> list[Any]:
        return list((await client.get(f"{URL}/attempts", params=query)).json()["items"])

    return await until(found, lambda items: len(items) == number)


async def events(client: httpx2.AsyncClient) -> list[Any]:
    """Return what has happened to the webhook, without the times."""
    found = await client.get("/v1/topics/__webhook_events/records")
    return [record["value"] for record in found.json().get("records", ())]
