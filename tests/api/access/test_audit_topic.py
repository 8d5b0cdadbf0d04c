"""The audit topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.access.principals import ADMIN_KEY, Principals

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


async def audited(client: httpx2.AsyncClient, principals: Principals) -> list[dict[str, Any]]:
    page = await client.get("/v1/topics/__audit/records", headers=principals.admin)
    return [record["value"] for record in page.json()["records"]]


async def test_a_change_is_recorded_with_who_and_what_and_without_secrets(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    app = await principals.add("app", ("all", "source", "*"), ("all", "topic", "*"), key_id="examplekey01")
    body = {"topic": "hooks", "verify": {"scheme": "github", "secret": "It is a secret"}}
    await keyed.put("/v1/sources/github", json=body, headers=app | {"X-Request-ID": "r1"})

    record = (await audited(keyed, principals))[-1]

    assert record["at_ms"] > 0
    assert record["parameters"]["topic"] == "hooks"
    assert record["parameters"]["verify"]["secret"] == "***"
    assert {name: value for name, value in record.items() if name != "at_ms"} == {
        "type": "change",
        "principal": "app",
        "operation": "create_source",
        "key_id": "examplekey01",
        "address": "127.0.0.1",
        "request_id": "r1",
        "resource": {"source": "github"},
        "parameters": record["parameters"],
    }


async def test_a_refused_change_is_not_a_change(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    app = await principals.add("app", ("alter", "topic", "orders"))
    before = await audited(keyed, principals)

    assert (await keyed.patch("/v1/topics/orders", json={"partitions": 8}, headers=app)).status_code == 404
    assert (await keyed.delete("/v1/topics/orders", headers=app)).status_code == 403

    assert await audited(keyed, principals) == before


async def test_produce_and_reads_are_not_recorded(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    await keyed.put("/v1/topics/orders", headers=principals.admin)
    before = await audited(keyed, principals)

    await keyed.post("/v1/topics/orders/records", json={"value": 1}, headers=principals.admin)
    await keyed.get("/v1/topics/orders/records", headers=principals.admin)

    assert await audited(keyed, principals) == before


async def test_refusals_of_a_principal_are_one_record_a_minute_and_those_without_a_key_none(serve: Serve) -> None:
    application, client = await serve(auth="keys", admin_key=ADMIN_KEY)
    principals = Principals(client)
    app = await principals.add("app", key_id="examplekey01")
    before = len(await audited(client, principals))
    for _ in range(3):
        await client.delete("/v1/topics/orders", headers=app)
        await client.get("/v1/topics/orders")
    await application.services.audit.store_refusals()
    await client.get("/v1/topics/orders", headers=app)
    await application.services.audit.store_refusals()

    records = (await audited(client, principals))[before:]

    assert [(record["principal"], record["reason"], record["count"]) for record in records] == [
        ("app", "TOPIC_AUTHORIZATION_FAILED", 3)
    ]


async def test_without_access_control_there_is_no_audit_topic(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put("/v1/topics/orders")

    assert (await sqlite_client.get("/v1/topics/__audit")).status_code == 404
