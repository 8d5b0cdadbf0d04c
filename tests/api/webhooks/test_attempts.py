"""The attempts of webhooks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.api.webhooks.receiver import SETTINGS, Answer, receiving

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(serve: Serve, sqlite_url: str) -> httpx2.AsyncClient:
    _, client = await serve(database_url=sqlite_url, **SETTINGS)
    return client


async def test_tests_at_the_same_time_are_answered_with_the_ids_of_their_attempts(client: httpx2.AsyncClient) -> None:
    body = {"url": "https://[::1]/", "topics": ["orders"], "paused": True}
    assert (await client.put("/v1/webhooks/billing", json=body)).status_code == 201

    answers = await asyncio.gather(*(client.post("/v1/webhooks/billing/test") for _ in range(20)))

    ids = [answer.json()["attempt"]["attempt_id"] for answer in answers]
    listed = (await client.get("/v1/webhooks/billing/attempts")).json()["items"]
    assert sorted(ids, reverse=True) == [each["attempt_id"] for each in listed]


async def test_the_headers_of_an_answer_are_kept_up_to_4_kib_and_without_cookies(client: httpx2.AsyncClient) -> None:
    fields = ("Set-Cookie: a=b", *(f"X-{number}: {'x' * 1_000}" for number in range(20)))
    async with receiving(lambda _: Answer(500, fields)) as receiver:
        body = {"url": receiver.url, "topics": ["orders"], "paused": True}
        assert (await client.put("/v1/webhooks/billing", json=body)).status_code == 201

        attempt = (await client.post("/v1/webhooks/billing/test")).json()["attempt"]

    assert [name for name, _ in attempt["response_headers"]] == ["content-length", "x-0", "x-1", "x-2", "x-3"]
    assert attempt["outcome"] == "failed"
