"""API keys by HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.access.principals import ADMIN_KEY, Principals
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


async def test_on_a_loopback_address_no_key_is_needed_until_the_first_one(sqlite_client: httpx2.AsyncClient) -> None:
    assert (await sqlite_client.get("/v1/topics")).status_code == 200
    first = await sqlite_client.post("/v1/keys", json={"name": "root", "principal": "root", "admin": True})
    assert first.status_code == 201
    assert first.json()["key"].startswith(f"mr_{first.json()['key_id']}_")

    assert (await sqlite_client.get("/v1/topics")).status_code == 401
    key = {"Authorization": f"Bearer {first.json()['key']}"}
    assert (await sqlite_client.get("/v1/topics", headers=key)).status_code == 200


async def test_the_first_key_must_be_that_of_an_admin(sqlite_client: httpx2.AsyncClient) -> None:
    refused = await sqlite_client.post("/v1/keys", json={"name": "app", "principal": "app"})

    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_API_KEY_REQUEST")
    assert refused.json()["errors"] == [{"field": "admin", "detail": "must be true for the first key"}]
    assert (await sqlite_client.get("/v1/topics")).status_code == 200


async def test_the_server_goes_on_to_need_keys_when_the_last_one_is_revoked(sqlite_client: httpx2.AsyncClient) -> None:
    body = {"name": "root", "principal": "root", "admin": True, "key_id": "examplekey01"}
    key = (await sqlite_client.post("/v1/keys", json=body)).json()["key"]

    revoked = await sqlite_client.delete("/v1/keys/examplekey01", headers={"X-API-Key": key})

    assert revoked.status_code == 204
    assert (await sqlite_client.get("/v1/topics")).status_code == 401
    assert (await sqlite_client.get("/v1/topics", headers={"X-API-Key": key})).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"Host": "millrace:8400"}, {"X-Forwarded-For": "10.0.0.9"}, {"Forwarded": "for=10.0.0.9"}, {"Via": "1.1 proxy"}],
)
async def test_what_a_proxy_forwards_needs_a_key(sqlite_client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    assert (await sqlite_client.get("/v1/topics", headers=headers)).status_code == 401
    assert (await sqlite_client.get("/healthz", headers=headers)).status_code == 200


async def test_a_server_on_another_address_needs_keys_and_accepts_any_host(serve: Serve) -> None:
    _, client = await serve(host="0.0.0.0", admin_key=ADMIN_KEY)

    assert (await client.get("/v1/topics")).status_code == 401
    named = {"Host": "log.example.com", "Authorization": f"Bearer {ADMIN_KEY}"}
    assert (await client.get("/v1/topics", headers=named)).status_code == 200


async def test_a_server_without_access_control_needs_no_key_anywhere(serve: Serve) -> None:
    _, client = await serve(host="0.0.0.0", auth="none")

    assert (await client.get("/v1/topics", headers={"Via": "1.1 proxy"})).status_code == 200


async def test_lists_show_no_secret_and_when_a_key_was_used(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    key = await principals.key("app")
    await keyed.get("/v1/topics", headers={"X-API-Key": key})

    listed = await keyed.get("/v1/keys", headers=principals.admin)

    (shown,) = listed.json()["items"]
    assert set(shown) == {
        "key_id", "name", "principal", "admin", "created_at_ms", "expires_at_ms", "last_used_at_ms",
    }  # fmt: skip
    assert key.split("_")[2] not in listed.text


async def test_a_page_of_keys_leads_to_the_next(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    for number in range(3):
        await principals.key("app", key_id=f"key00000000{number}")

    first = (await keyed.get("/v1/keys?limit=2", headers=principals.admin)).json()
    second = (
        await keyed.get("/v1/keys", params={"limit": 2, "cursor": first["next_cursor"]}, headers=principals.admin)
    ).json()

    ids = [item["key_id"] for item in first["items"] + second["items"]]
    assert ids == ["key000000000", "key000000001", "key000000002"]
    assert second["next_cursor"] is None


async def test_two_keys_of_one_principal_live_side_by_side(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    old = await principals.add("app", ("read", "topic", "*"), key_id="oldkey000001")
    new = {"X-API-Key": await principals.key("app")}
    assert (await keyed.get("/v1/topics", headers=new)).status_code == 200

    await keyed.delete("/v1/keys/oldkey000001", headers=principals.admin)

    assert (await keyed.get("/v1/topics", headers=old)).status_code == 401
    assert (await keyed.get("/v1/topics", headers=new)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"principal": ""}, "principal"),
        ({"principal": "a b"}, "principal"),
        ({"principal": "*"}, "principal"),
        ({"principal": "ANONYMOUS"}, "principal"),
        ({"expires_at_ms": 1}, "expires_at_ms"),
        ({"key_id": "short"}, "key_id"),
        ({"key_id": "examplekey01"}, "key_id"),
    ],
)
async def test_a_field_that_is_not_valid_is_named(
    keyed: httpx2.AsyncClient, principals: Principals, fields: dict[str, object], field: str
) -> None:
    await principals.key("app", key_id="examplekey01")
    body = {"name": "x", "principal": "app"} | fields

    refused = await keyed.post("/v1/keys", json=body, headers=principals.admin)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field


async def test_the_number_of_keys_is_bounded(serve: Serve) -> None:
    _, client = await serve(auth="keys", admin_key=ADMIN_KEY, max_keys=1)
    principals = Principals(client)
    await principals.key("app", key_id="examplekey01")
    body = {"name": "x", "principal": "app"}

    refused = await client.post("/v1/keys", json=body, headers=principals.admin)
    await client.delete("/v1/keys/examplekey01", headers=principals.admin)

    assert (refused.status_code, refused.json()["code"]) == (409, "ACCESS_LIMIT")
    assert (await client.post("/v1/keys", json=body, headers=principals.admin)).status_code == 201


async def test_a_key_in_two_headers_is_refused_and_one_in_the_query_does_not_count(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    both = principals.admin | {"X-API-Key": ADMIN_KEY}

    assert (await keyed.get("/v1/topics", headers=both)).status_code == 400
    assert (await keyed.get("/v1/topics", params={"api_key": ADMIN_KEY})).status_code == 401


async def test_an_idempotency_key_belongs_to_its_principal(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    rights = [("all", "topic", "*")]
    one = await principals.add("one", *rights)
    other = await principals.add("other", *rights)
    key = {"Idempotency-Key": "k"}
    url = "/v1/topics/orders/partitions/0/records"

    answers = [
        (await keyed.post(url, json={"value": value}, headers=who | key)).json()
        for who, value in ((one, 1), (other, 2), (one, 1))
    ]

    assert [answer["offsets"][0]["offset"] for answer in answers] == [0, 1, 0]
    assert answers[2]["duplicate"] is True


async def test_metrics_need_a_right_and_probes_do_not(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    prometheus = await principals.add("prometheus", ("describe", "cluster", "cluster"))
    stranger = await principals.add("stranger")

    assert (await keyed.get("/metrics")).status_code == 401
    assert (await keyed.get("/metrics", headers=stranger)).json()["code"] == "CLUSTER_AUTHORIZATION_FAILED"
    assert (await keyed.get("/metrics", headers=prometheus)).status_code == 200
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/problems"):
        assert (await keyed.get(path)).status_code == 200, path


async def test_a_key_that_was_just_used_expires(serve: Serve) -> None:
    application, client = await serve(auth="keys", admin_key=ADMIN_KEY)
    principals = Principals(client)
    expires_at_ms = application.services.clock() + 400
    app = await principals.add("app", ("describe", "topic", "*"), expires_at_ms=expires_at_ms)
    assert (await client.get("/v1/topics", headers=app)).status_code == 200

    answer = await until(lambda: client.get("/v1/topics", headers=app), lambda found: found.status_code != 200)

    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]
    assert application.services.clock() >= expires_at_ms
