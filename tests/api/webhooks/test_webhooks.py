"""Webhooks: create, confirm, change, describe, delete, test, rotate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.webhooks.receiver import SETTINGS, receiving

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

URL = "/v1/webhooks/billing"
RECEIVER = "https://example.com/hooks"


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    return client


async def create(client: httpx2.AsyncClient, **settings: Any) -> Any:
    answer = await client.put(URL, json={"url": RECEIVER, "topics": ["orders"], "paused": True} | settings)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_new_webhook_has_its_defaults_and_shows_its_secret_once(client: httpx2.AsyncClient) -> None:
    created = await create(client)

    assert created.pop("secret").startswith("whsec_")
    assert created.pop("created_topics") == ["orders"]
    assert created.pop("created_at_ms") > 0
    assert created == {
        "name": "billing",
        "url": RECEIVER,
        "topics": ["orders"],
        "topic_pattern": None,
        "start": "latest",
        "mode": "record",
        "ordering": "key",
        "max_in_flight": 4,
        "max_batch_records": 100,
        "filter": None,
        "signature": "hmac",
        "timeout_ms": 15_000,
        "rate_limit_per_s": None,
        "retry_delays_ms": [5000, 300000, 1800000, 7200000, 18000000, 36000000, 50400000, 72000000, 86400000],
        "on_exhausted": "drop",
        "dead_letter_topic": None,
        "description": "",
        "paused": True,
        "status": "paused",
        "disabled_reason": None,
        "disabled_at_ms": None,
    }
    described = (await client.get(URL)).json()
    assert "secret" not in described
    assert "headers" not in described
    assert described["counts"] == {
        "waiting": 0, "in_flight": 0, "retrying": 0, "delivered": 0, "filtered": 0, "dead_lettered": 0, "dropped": 0,
        "expired": 0,
    }  # fmt: skip
    assert (await client.get("/v1/queues")).json()["items"] == []


async def test_the_same_request_confirms_a_webhook_and_another_one_is_refused(client: httpx2.AsyncClient) -> None:
    created = await create(client, headers={"X-Team": "billing"})

    same = await client.put(URL, json={"url": RECEIVER, "topics": ["orders"], "headers": {"X-Team": "billing"}})
    assert same.status_code == 200
    assert "secret" not in same.json()
    assert (await client.put(URL, json={"secret": created["secret"]})).status_code == 200
    other = await client.put(
        URL, json={"url": f"{RECEIVER}/2", "headers": {}, "secret": "whsec_" + "A" * 32, "timeout_ms": 1_000}
    )
    assert other.status_code == 409
    assert set(other.json()["differing"]) == {"url", "headers", "secret", "timeout_ms"}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://user:pw@example.com"}, "url"),
        ({"url": "https://"}, "url"),
        ({"topics": []}, "topics"),
        ({"topic_pattern": "orders.*"}, "topics"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": 65}, "max_in_flight"),
        ({"max_batch_records": 101}, "max_batch_records"),
        ({"timeout_ms": 999}, "timeout_ms"),
        ({"timeout_ms": 30_001}, "timeout_ms"),
        ({"rate_limit_per_s": 0}, "rate_limit_per_s"),
        ({"retry_delays_ms": [-1]}, "retry_delays_ms"),
        ({"retry_delays_ms": [0] * 100}, "retry_delays_ms"),
        ({"on_exhausted": "dead_letter"}, "dead_letter_topic"),
        ({"on_exhausted": "dead_letter", "dead_letter_topic": "orders"}, "dead_letter_topic"),
        ({"filter": {"value": "/n", "is": 1}}, "filter"),
        ({"headers": {"Webhook-Id": "1"}}, "headers/Webhook-Id"),
        ({"headers": {"Host": "x"}}, "headers/Host"),
        ({"headers": {"X-A": "a\nb"}}, "headers/X-A"),
        ({"secret": "whsec_short"}, "secret"),
    ],
)  # fmt: skip
async def test_a_wrong_setting_is_refused_with_its_field(
    client: httpx2.AsyncClient, settings: dict[str, Any], field: str
) -> None:
    answer = await client.put(URL, json={"url": RECEIVER, "topics": ["orders"]} | settings)

    assert answer.status_code == 422, answer.text
    assert field in [error["field"] for error in answer.json()["errors"]], answer.text
    assert (await client.get(URL)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("GET", f"{URL}/attempts?outcome=foo", None, "must be one of delivered, failed, timed_out, blocked, not_sent"),
        ("PUT", URL, {"signature": "rsa"}, "must be one of hmac, ed25519"),
        ("PATCH", URL, {"on_exhausted": "stop"}, "must be one of dead_letter, pause, drop"),
        ("POST", f"{URL}/replay", {"topic": "orders", "only": "some"}, "must be one of all, failed"),
        ("PUT", "/v1/sources/hub", {"topic": "orders", "verify": {"scheme": "x"}}, "must be one of github, stripe"),
        ("PUT", URL, {"topics": ["orders"]}, "is required"),
    ],
)
async def test_an_error_names_the_values_that_the_field_accepts(
    sqlite_client: httpx2.AsyncClient, method: str, path: str, body: dict[str, Any] | None, detail: str
) -> None:
    answer = await sqlite_client.request(method, path, json=body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["detail"].startswith(detail), answer.text


async def test_a_change_replaces_given_fields_and_null_restores_defaults(client: httpx2.AsyncClient) -> None:
    await create(client, max_in_flight=8, rate_limit_per_s=5, filter={"key": True, "exists": True})

    changed = (await client.patch(URL, json={"max_in_flight": None, "filter": None, "paused": False})).json()
    assert (changed["max_in_flight"], changed["rate_limit_per_s"], changed["filter"]) == (4, 5, None)
    assert changed["status"] == "active"
    moved = (await client.patch(URL, json={"topics": ["invoices"]})).json()
    assert moved["topics"] == ["invoices"]
    for fixed in (
        {"ordering": "none"},
        {"start": "earliest"},
        {"signature": "ed25519"},
        {"secret": "whsec_" + "A" * 32},
        {"secret": None},
    ):
        assert (await client.patch(URL, json=fixed)).status_code == 422, fixed
    assert (await client.patch("/v1/webhooks/missing", json={})).status_code == 404


async def test_a_change_may_name_fixed_settings_with_their_values_and_names_the_topics_that_it_creates(
    client: httpx2.AsyncClient,
) -> None:
    created = await create(client, ordering="none", signature="ed25519")
    fixed = {name: created[name] for name in ("ordering", "start", "signature", "topics", "topic_pattern")}

    same = await client.patch(URL, json=fixed)
    assert same.status_code == 200, same.text
    assert "created_topics" not in same.json()
    assert (await client.patch(URL, json={"ordering": None})).status_code == 422
    letters = {"on_exhausted": "dead_letter", "dead_letter_topic": "undelivered"}
    changed = await client.patch(URL, json=letters | {"topics": ["orders", "invoices"]})
    assert sorted(changed.json()["created_topics"]) == ["invoices", "undelivered"]


async def test_a_refused_dead_letter_topic_leaves_no_topics_behind(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/latest", json={"config": {"cleanup_policy": "compact"}})
    settings = {"topics": ["orders"], "on_exhausted": "dead_letter", "dead_letter_topic": "latest"}

    assert (await client.put(URL, json={"url": RECEIVER} | settings)).status_code == 422
    assert (await client.get("/v1/topics/orders")).status_code == 404


async def test_a_deleted_webhook_leaves_its_topics_and_nothing_else(client: httpx2.AsyncClient) -> None:
    await create(client)
    await client.post(f"{URL}/test")

    assert (await client.delete(URL)).status_code == 204
    assert (await client.get(URL)).status_code == 404
    assert (await client.delete(URL)).status_code == 404
    assert (await client.get("/v1/topics/orders")).status_code == 200
    await create(client)
    assert (await client.get(f"{URL}/attempts")).json()["items"] == []
    assert (await client.delete("/v1/topics/orders")).status_code == 204


async def test_a_list_has_pages_in_the_order_of_names(client: httpx2.AsyncClient) -> None:
    for name in ("b", "a", "c"):
        await client.put(f"/v1/webhooks/{name}", json={"url": RECEIVER, "topics": ["orders"], "paused": True})

    first = (await client.get("/v1/webhooks", params={"limit": 2})).json()
    rest = (await client.get("/v1/webhooks", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [each["name"] for each in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None


async def test_a_test_sends_a_signed_ping_and_is_an_attempt(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, url=receiver.url)
        tested = (await client.post(f"{URL}/test")).json()["attempt"]

    (post,) = receiver.posts
    assert (tested["outcome"], tested["status"], tested["topic"]) == ("delivered", 200, None)
    assert post.json["type"] == "millrace.ping"
    assert post.message_id == tested["message_id"]
    assert post.headers["webhook-signature"].startswith("v1,")
    assert [each["attempt_id"] for each in (await client.get(f"{URL}/attempts")).json()["items"]] == [
        tested["attempt_id"]
    ]


async def test_a_test_of_a_forbidden_address_is_blocked_with_the_setting(sqlite_url: str, serve: Serve) -> None:
    _, client = await serve(database_url=sqlite_url, secret_key=SETTINGS["secret_key"])
    await create(client, url="http://127.0.0.1:9999/hook")

    attempt = (await client.post(f"{URL}/test")).json()["attempt"]
    assert attempt["outcome"] == "blocked"
    assert "MILLRACE_WEBHOOK_ALLOWED_NETWORKS" in attempt["error"]


async def test_both_secrets_sign_during_the_overlap_of_a_rotation(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        created = await create(client, url=receiver.url)
        rotated = (await client.post(f"{URL}/rotate_secret", json={"overlap_ms": 60_000})).json()
        assert rotated["secret"] not in {created["secret"], ""}
        await client.post(f"{URL}/test")
        await client.post(f"{URL}/rotate_secret", json={"overlap_ms": 0})
        await client.post(f"{URL}/test")

    signatures = [post.headers["webhook-signature"].split(" ") for post in receiver.posts]
    assert [len(each) for each in signatures] == [2, 1]


async def test_ed25519_shows_the_public_key(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        created = await create(client, url=receiver.url, signature="ed25519")
        assert created["secret"].startswith("whpk_")
        assert (await client.get(URL)).json()["public_key"] == created["secret"]
        await client.post(f"{URL}/test")

    assert receiver.posts[0].headers["webhook-signature"].startswith("v1a,")


async def test_without_a_key_postgresql_stores_no_secret(migrated_postgres_url: str, serve: Serve) -> None:
    _, client = await serve(database_url=migrated_postgres_url)

    answer = await client.put(URL, json={"url": RECEIVER, "topics": ["orders"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "SECRET_KEY_MISSING")


async def test_a_webhook_cannot_drive_this_service(client: httpx2.AsyncClient) -> None:
    sent = {"Millrace-Webhook": "billing"}

    refused = await client.post("/v1/topics/orders/records", json={"records": [{"value": 1}]}, headers=sent)
    assert (refused.status_code, refused.json()["code"]) == (403, "WEBHOOK_REQUEST_REFUSED")
    assert (await client.delete("/v1/topics/orders", headers=sent)).status_code == 403
    assert (await client.get("/v1/topics", headers=sent)).status_code == 403


async def test_a_dead_letter_topic_alone_asks_for_dead_letters(client: httpx2.AsyncClient) -> None:
    settings = {"url": "https://10.1.0.7", "topics": ["orders"], "dead_letter_topic": "undelivered"}
    created = (await client.put("/v1/webhooks/one", json=settings)).json()
    assert (created["on_exhausted"], sorted(created["created_topics"])) == ("dead_letter", ["orders", "undelivered"])
    other = await client.put("/v1/webhooks/other", json={"url": "https://10.1.0.7", "topics": ["orders"]})
    assert other.json()["on_exhausted"] == "drop"
    changed = await client.patch("/v1/webhooks/other", json={"dead_letter_topic": "undelivered"})
    assert changed.json()["on_exhausted"] == "dead_letter"
