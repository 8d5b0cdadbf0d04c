"""Secrets of webhooks: what signs, what is never shown, and a server without the key that decrypts them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.api.webhooks.calls import URL, attempts, change, create, describe, produce, settled
from tests.api.webhooks.receiver import SECRET_KEY, SETTINGS, receiving
from tests.serving import running

if TYPE_CHECKING:
    import httpx2

    from tests.api.webhooks.receiver import Post
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

OTHER_KEY = "bWlsbHJhY2UgdGVzdHMgdXNlIHRoaXMgc2VjcmV0IDI="
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HIDDEN = "Bearer tops3cret"


def verifies(secret: str, post: Post) -> bool:
    """Return whether the library of Standard Webhooks accepts a request."""
    try:
        Webhook(secret).verify(post.body, post.headers)
    except WebhookVerificationError:
        return False
    return True


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    return client


async def test_both_secrets_verify_during_the_overlap_and_then_the_new_one(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        old = (await create(client, receiver.url, secret=SECRET))["secret"]
        assert old == SECRET
        new = (await client.post(f"{URL}/rotate_secret", json={"overlap_ms": 60_000})).json()["secret"]
        await produce(client, {"value": 1})
        (during,) = await receiver.received(1)
        given = (await client.post(f"{URL}/rotate_secret", json={"overlap_ms": 0, "secret": SECRET})).json()
        assert given == {"secret": SECRET}
        await produce(client, {"value": 2})
        _, after = await receiver.received(2)

    assert [verifies(secret, during) for secret in (old, new)] == [True, True]
    assert [verifies(secret, after) for secret in (old, new)] == [True, False]


@pytest.mark.parametrize(
    "body",
    [
        {"overlap_ms": -1},
        {"overlap_ms": 2_592_000_001},
        {"secret": "whsec_short"},
        {"secret": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
        {"secrets": []},
    ],
)
async def test_a_wrong_rotation_is_refused(sqlite_url: str, serve: Serve, body: dict[str, Any]) -> None:
    _, client = await serve(database_url=sqlite_url, **SETTINGS)
    await create(client, "https://example.com", paused=True)

    assert (await client.post(f"{URL}/rotate_secret", json=body)).status_code == 422
    assert (await client.post("/v1/webhooks/missing/rotate_secret", json={})).status_code == 404


@pytest.mark.parametrize("length", [24, 31, 33, 64])
async def test_ed25519_refuses_a_secret_that_is_no_seed_and_keeps_the_one_before(
    sqlite_url: str, serve: Serve, length: int
) -> None:
    _, client = await serve(database_url=sqlite_url, **SETTINGS)
    wrong, seed = (f"whsec_{b64encode(bytes(size)).decode()}" for size in (length, 32))
    settings: dict[str, Any] = {
        "url": "https://example.com",
        "topics": ["orders"],
        "signature": "ed25519",
        "paused": True,
    }

    refused = await client.put(URL, json=settings | {"secret": wrong})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "secret"), refused.text
    assert (await client.get(URL)).status_code == 404
    assert (await client.get("/v1/topics/orders")).status_code == 404

    await create(client, **settings, secret=seed)
    key = (await describe(client))["public_key"]
    rotated = await client.post(f"{URL}/rotate_secret", json={"secret": wrong})
    assert (rotated.status_code, rotated.json()["errors"][0]["field"]) == (422, "secret"), rotated.text
    assert (await client.put(URL, json={"secret": wrong})).status_code == 422
    assert (await describe(client))["public_key"] == key


async def test_secrets_and_static_headers_are_in_no_answer_and_not_in_the_database(
    client: httpx2.AsyncClient, migrated_url: str
) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, secret=SECRET, headers={"Authorization": HIDDEN})
        await produce(client, {"value": 1})
        await settled(client, delivered=1)
        await attempts(client, 1)
        shown = [
            await client.get(path)
            for path in (URL, "/v1/webhooks", f"{URL}/attempts", "/metrics", "/v1/topics/__webhook_events/records")
        ]
        confirmed = await client.put(URL, json={"secret": SECRET, "headers": {"Authorization": HIDDEN}})
        differs = await client.put(URL, json={"secret": "whsec_" + "A" * 32, "headers": {"Authorization": "other"}})

    assert receiver.posts[0].headers["authorization"] == HIDDEN
    assert (confirmed.status_code, differs.status_code) == (200, 409)
    for answer in (*shown, confirmed, differs):
        assert SECRET not in answer.text
        assert "tops3cret" not in answer.text
    if migrated_url.startswith("sqlite"):
        stored = await asyncio.to_thread(Path(migrated_url.removeprefix("sqlite:///")).read_bytes)
        assert b"tops3cret" not in stored
        assert SECRET.encode() not in stored


async def test_headers_are_replaced_and_removed(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, headers={"X-One": "1", "X-Two": "2"})
        await change(client, headers={"X-One": "3"})
        await produce(client, {"value": 1})
        await receiver.received(1)
        await change(client, timeout_ms=2_000)
        await produce(client, {"value": 2})
        await receiver.received(2)
        await change(client, headers=None)
        await produce(client, {"value": 3})
        posts = await receiver.received(3)

    assert [(post.headers.get("x-one"), post.headers.get("x-two")) for post in posts] == [
        ("3", None), ("3", None), (None, None)
    ]  # fmt: skip


async def test_without_its_key_a_webhook_sends_nothing_says_so_and_is_mended_by_new_secrets(
    migrated_postgres_url: str, serve: Serve
) -> None:
    async with receiving() as receiver:
        async with running({"database_url": migrated_postgres_url} | SETTINGS) as (_, client):
            await create(client, receiver.url, secret=SECRET, headers={"X-One": "1"})
        _, client = await serve(database_url=migrated_postgres_url, **SETTINGS | {"secret_key": OTHER_KEY})
        await produce(client, {"value": 1})
        found = await describe(client)
        assert (found["status"], found["counts"]["waiting"]) == ("active", 1)
        (attempt,) = await attempts(client, 1)
        assert (attempt["outcome"], attempt["topic"]) == ("not_sent", None)
        assert "MILLRACE_SECRET_KEY" in attempt["error"]
        tested = (await client.post(f"{URL}/test")).json()["attempt"]
        assert (tested["outcome"], tested["error"]) == ("not_sent", attempt["error"])
        for confirmed in ({"secret": SECRET}, {"headers": {"X-One": "1"}}):
            answer = await client.put(URL, json=confirmed)
            assert (answer.status_code, answer.json()["code"]) == (503, "SERVICE_UNAVAILABLE"), answer.text
        assert (await client.put(URL, json={"url": receiver.url})).status_code == 200
        assert receiver.posts == []

        await change(client, headers={"X-One": "2"})
        rotated = await client.post(f"{URL}/rotate_secret", json={})
        assert rotated.status_code == 200, rotated.text
        (post,) = await receiver.received(1)

    assert post.headers["x-one"] == "2"
    assert verifies(rotated.json()["secret"], post)
    assert not verifies(SECRET, post)


async def test_the_key_before_still_decrypts(migrated_postgres_url: str, serve: Serve) -> None:
    async with receiving() as receiver:
        async with running({"database_url": migrated_postgres_url} | SETTINGS) as (_, client):
            await create(client, receiver.url, secret=SECRET)
        keys = f"{OTHER_KEY},{SECRET_KEY}"
        _, client = await serve(database_url=migrated_postgres_url, **SETTINGS | {"secret_key": keys})
        await produce(client, {"value": 1})
        (post,) = await receiver.received(1)

    assert verifies(SECRET, post)


async def test_ed25519_without_its_key_is_described_without_its_public_key(
    migrated_postgres_url: str, serve: Serve
) -> None:
    async with running({"database_url": migrated_postgres_url} | SETTINGS) as (_, client):
        await create(client, "https://example.com", signature="ed25519", paused=True)
        assert (await describe(client))["public_key"].startswith("whpk_")
    _, client = await serve(database_url=migrated_postgres_url, **SETTINGS | {"secret_key": OTHER_KEY})

    assert (await describe(client))["public_key"] is None
    assert (await client.get("/v1/webhooks")).status_code == 200
