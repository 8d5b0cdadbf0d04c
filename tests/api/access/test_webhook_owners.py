"""Webhooks act with the rights that their owner has now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.access.principals import ADMIN_KEY, Principals
from tests.api.webhooks.calls import URL, change, create, produce
from tests.api.webhooks.receiver import SETTINGS, receiving
from tests.serving import client_of
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from app.main import Application
    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def application(migrated_url: str, serve: Serve) -> Application:
    application, _ = await serve(database_url=migrated_url, auth="keys", admin_key=ADMIN_KEY, **SETTINGS)
    return application


@pytest.fixture
async def admin(application: Application) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(application.asgi) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        yield client


@pytest.fixture
async def app(application: Application, admin: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the principal `app`, which may do everything with webhooks, and nothing with topics."""
    headers = await Principals(admin).add("app", ("all", "webhook", "*"), key_id="examplekey01")
    async with client_of(application.asgi) as client:
        client.headers.update(headers)
        yield client


async def test_a_webhook_needs_read_on_its_topics_and_write_on_its_dead_letters(
    admin: httpx2.AsyncClient, app: httpx2.AsyncClient
) -> None:
    await admin.put("/v1/topics/orders")
    body = {"url": "https://a.example", "topics": ["orders"]}
    assert (await app.put(URL, json=body)).json()["code"] == "TOPIC_AUTHORIZATION_FAILED"

    await Principals(admin).allow("app", "read", "topic", "orders")
    with_letters = body | {"on_exhausted": "dead_letter", "dead_letter_topic": "dead"}
    assert (await app.put(URL, json=with_letters)).json()["code"] == "TOPIC_AUTHORIZATION_FAILED"
    assert (await app.put(URL, json=body)).status_code == 201
    assert (await app.patch(URL, json={"topics": ["others"]})).json()["code"] == "TOPIC_AUTHORIZATION_FAILED"


async def test_nothing_is_sent_while_its_owner_may_not_read_and_nothing_is_lost(
    admin: httpx2.AsyncClient, app: httpx2.AsyncClient
) -> None:
    principals = Principals(admin)
    await admin.put("/v1/topics/orders")
    acl_id = await principals.allow("app", "read", "topic", "orders")
    async with receiving() as receiver:
        await create(app, receiver.url)
        await produce(admin, {"value": 1})
        await receiver.received(1)

        await admin.delete(f"/v1/acls/{acl_id}")
        await produce(admin, {"value": 2})
        await change(admin, description="looked")
        state = await until(lambda: admin.get(URL), lambda found: found.json()["counts"]["waiting"] == 1)
        assert len(receiver.posts) == 1
        assert state.json()["authorization_error"] == "the owner app may not read: orders"

        await principals.allow("app", "read", "topic", "orders")
        posts = await receiver.received(2)

    assert [post.json for post in posts] == [1, 2]
    assert (await admin.get(URL)).json()["authorization_error"] is None


async def test_a_pattern_covers_what_its_owner_may_read_also_later(
    admin: httpx2.AsyncClient, app: httpx2.AsyncClient
) -> None:
    for topic in ("eu.orders", "eu.secret"):
        await admin.put(f"/v1/topics/{topic}")
    await Principals(admin).allow("app", "read", "topic", "eu.orders")
    async with receiving() as receiver:
        await create(app, receiver.url, topic_pattern="eu.*")
        await produce(admin, {"value": "secret"}, topic="eu.secret")
        await produce(admin, {"value": "order"}, topic="eu.orders")
        await receiver.received(1)
        await Principals(admin).allow("app", "read", "topic", "eu.secret")
        await change(admin, description="looked")
        posts = await receiver.received(2)

    assert [post.json for post in posts] == ["order", "secret"]


async def test_a_webhook_of_an_admin_stops_with_the_last_key_of_the_admin(
    application: Application, admin: httpx2.AsyncClient
) -> None:
    root = await Principals(admin).add("root", admin=True, key_id="rootkey00001")
    async with receiving() as receiver, client_of(application.asgi) as client:
        client.headers.update(root)
        await create(client, receiver.url)
        await produce(admin, {"value": 1})
        await receiver.received(1)
        await admin.delete("/v1/keys/rootkey00001")
        await produce(admin, {"value": 2})
        await change(admin, description="looked")
        state = (await until(lambda: admin.get(URL), lambda found: found.json()["counts"]["waiting"] == 1)).json()

        assert state["authorization_error"] == "the owner root may not read: orders"
        assert len(receiver.posts) == 1


async def test_a_replay_waits_too(admin: httpx2.AsyncClient, app: httpx2.AsyncClient) -> None:
    principals = Principals(admin)
    await admin.put("/v1/topics/orders")
    acl_id = await principals.allow("app", "read", "topic", "orders")
    async with receiving() as receiver:
        await create(app, receiver.url)
        await produce(admin, {"value": 1})
        await receiver.received(1)
        await admin.delete(f"/v1/acls/{acl_id}")
        body = {"topic": "orders", "from": "earliest", "dry_run": False}
        assert (await app.post(f"{URL}/replay", json=body)).status_code == 403
        replay = (await admin.post(f"{URL}/replay", json=body)).json()
        assert len(receiver.posts) == 1
        await principals.allow("app", "read", "topic", "orders")
        posts = await receiver.received(2)

    assert replay["records"] == 1
    assert [post.json for post in posts] == [1, 1]


async def test_answers_of_receivers_are_for_those_who_may_alter_the_webhook(
    admin: httpx2.AsyncClient,
) -> None:
    viewer = await Principals(admin).add("viewer", ("describe", "webhook", "billing"))
    async with receiving() as receiver:
        await create(admin, receiver.url)
        await produce(admin, {"value": 1})
        await receiver.received(1)

    full = await until(lambda: admin.get(f"{URL}/attempts"), lambda found: bool(found.json()["items"]))
    short = await admin.get(f"{URL}/attempts", headers=viewer)

    assert full.json()["items"][0]["response_headers"] != []
    assert short.json()["items"][0]["response_headers"] == []
    assert short.json()["items"][0]["response_body"] is None


@pytest.mark.parametrize("change_of", [{"url": "https://mine.example"}, {"topic_pattern": "*"}, {"topics": ["mine"]}])
async def test_who_leads_a_webhook_elsewhere_needs_to_read_what_it_covers_and_becomes_its_owner(
    admin: httpx2.AsyncClient, app: httpx2.AsyncClient, change_of: dict[str, object]
) -> None:
    principals = Principals(admin)
    await principals.allow("app", "all", "topic", "mine")
    await admin.put("/v1/topics/secret")
    await create(admin, "https://a.example", topics=["secret"], paused=True)

    refused = await app.patch(URL, json=change_of)
    harmless = await app.patch(URL, json={"max_in_flight": 2})
    await principals.allow("app", "read", "topic", "secret")
    changed = await app.patch(URL, json=change_of)

    assert refused.json()["code"] == "TOPIC_AUTHORIZATION_FAILED"
    assert (harmless.status_code, changed.status_code) == (200, 200)
    assert (await admin.get(URL)).json()["owner"] == "app"


async def test_an_admin_leaves_the_owner_of_a_webhook(admin: httpx2.AsyncClient, app: httpx2.AsyncClient) -> None:
    await admin.put("/v1/topics/orders")
    await Principals(admin).allow("app", "read", "topic", "orders")
    await create(app, "https://a.example", paused=True)

    await change(admin, url="https://b.example")

    assert (await admin.get(URL)).json()["owner"] == "app"
