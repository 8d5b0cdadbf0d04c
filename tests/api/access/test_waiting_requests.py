"""Streams and waiting reads end when their key or a right of theirs ends; tokens of streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.api.access.principals import ADMIN_KEY, Principals
from tests.serving import running
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from app.main import Application
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

RECORDS = "/v1/topics/orders/records"
WAITING: dict[str, str | int] = {"offset": "latest", "max_wait_ms": 60000}
FOLLOWING: dict[str, str | int] = {"offset": "latest", "follow": "true"}


@pytest.fixture
async def application(serve: Serve) -> Application:
    application, _ = await serve(auth="keys", admin_key=ADMIN_KEY)
    return application


async def parked(application: Application, number: int) -> None:
    async def waiting() -> int:
        return application.services.signals.waiting + application.services.streams.open

    await until(waiting, lambda found: found >= number)


@pytest.mark.parametrize("query", [WAITING, FOLLOWING], ids=["read", "stream"])
@pytest.mark.parametrize("what", ["key", "acl", "deny"])
async def test_what_waits_ends_when_its_key_or_its_right_ends(
    keyed: httpx2.AsyncClient, principals: Principals, query: dict[str, str | int], what: str
) -> None:
    await keyed.put("/v1/topics/orders", headers=principals.admin)
    app = await principals.add("app", key_id="examplekey01")
    acl_id = await principals.allow("app", "read", "topic", "orders")
    waiting = asyncio.create_task(keyed.get(RECORDS, params=query, headers=app))
    await until(lambda: keyed.get("/metrics", headers=principals.admin), lambda found: is_waiting(found.text))

    if what == "key":
        await keyed.delete("/v1/keys/examplekey01", headers=principals.admin)
    elif what == "acl":
        await keyed.delete(f"/v1/acls/{acl_id}", headers=principals.admin)
    else:
        await principals.allow("app", "read", "topic", "orders", permission="deny")
    answer = await waiting

    code = "SASL_AUTHENTICATION_FAILED" if what == "key" else "TOPIC_AUTHORIZATION_FAILED"
    assert code in answer.text
    assert answer.status_code == (200 if "follow" in query else 401 if what == "key" else 403)


def is_waiting(metrics: str) -> bool:
    return "millrace_waiting_reads 1.0" in metrics or "millrace_open_streams 1.0" in metrics


async def test_a_change_on_another_node_ends_what_waits_here(migrated_postgres_url: str) -> None:
    settings = {"database_url": migrated_postgres_url, "auth": "keys", "admin_key": ADMIN_KEY}
    async with running(settings) as (one, client), running(settings) as (_, other):
        principals = Principals(other)
        await other.put("/v1/topics/orders", headers=principals.admin)
        app = await principals.add("app", ("read", "topic", "orders"), key_id="examplekey01")
        await one.services.access.refresh()
        waiting = asyncio.create_task(client.get(RECORDS, params=WAITING, headers=app))
        await parked(one, 1)

        await other.delete("/v1/keys/examplekey01", headers=principals.admin)
        answer = await waiting

        assert answer.status_code == 401
        assert (await client.get(RECORDS, headers=app)).status_code == 401


async def test_a_token_opens_one_stream_once(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    await keyed.post(RECORDS, json={"value": 1}, headers=principals.admin)
    app = await principals.add("app", ("read", "topic", "orders"))
    target = f"{RECORDS}?offset=earliest&follow=true&max_events=1"
    made = (await keyed.post("/v1/stream_tokens", json={"path": target}, headers=app)).json()
    token = made["stream_token"]

    wrong = await keyed.get(f"{RECORDS}?offset=latest&follow=true&max_events=1&stream_token={token}")
    opened = await keyed.get(made["path"])
    again = await keyed.get(made["path"])

    assert (wrong.status_code, opened.status_code, again.status_code) == (401, 200, 401)
    assert '"value":1' in opened.text


async def test_a_token_has_the_rights_of_its_maker_and_dies_with_its_key(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    await keyed.put("/v1/topics/orders", headers=principals.admin)
    stranger = await principals.add("stranger")
    app = await principals.add("app", ("read", "topic", "orders"), key_id="examplekey01")
    body = {"path": f"{RECORDS}?follow=true"}
    useless = (await keyed.post("/v1/stream_tokens", json=body, headers=stranger)).json()
    dead = (await keyed.post("/v1/stream_tokens", json=body, headers=app)).json()
    await keyed.delete("/v1/keys/examplekey01", headers=principals.admin)

    assert (await keyed.get(useless["path"])).status_code == 404
    assert (await keyed.get(dead["path"])).status_code == 401
    assert (await keyed.post("/v1/stream_tokens", json=body)).status_code == 401


@pytest.mark.parametrize("path", ["", "orders", "https://a.example/v1/x", "/v1/topics/ä", "/v1/x#y", "/v1/x\n"])
async def test_a_token_is_for_a_path_of_the_api(keyed: httpx2.AsyncClient, principals: Principals, path: str) -> None:
    refused = await keyed.post("/v1/stream_tokens", json={"path": path}, headers=principals.admin)

    assert refused.status_code == 422


async def test_what_an_open_server_let_wait_ends_with_the_first_key(serve: Serve) -> None:
    application, client = await serve()
    await client.put("/v1/topics/orders")
    token = (await client.post("/v1/stream_tokens", json={"path": "/v1/topics"})).json()["path"]
    waiting = asyncio.create_task(client.get(RECORDS, params=WAITING))
    await parked(application, 1)

    await client.post("/v1/keys", json={"name": "root", "principal": "root", "admin": True})
    answer = await waiting

    assert (answer.status_code, answer.json()["code"]) == (401, "SASL_AUTHENTICATION_FAILED")
    assert (await client.get(token)).status_code == 401


async def test_a_token_in_the_query_gives_no_rights_to_the_key_in_the_header(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    await keyed.post(RECORDS, json={"value": 1}, headers=principals.admin)
    body = {"path": f"{RECORDS}?offset=earliest"}
    made = (await keyed.post("/v1/stream_tokens", json=body, headers=principals.admin)).json()
    wrong = {"Authorization": "Bearer nonsense"}

    opened = await keyed.get(made["path"], headers=wrong)

    assert opened.status_code == 200
    assert (await keyed.get(f"{RECORDS}?offset=earliest", headers=wrong)).status_code == 401
