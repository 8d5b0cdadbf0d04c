"""Access control lists by HTTP, and what they mean for requests that name resources in their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.access.principals import ADMIN_KEY, Principals
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

GROUP = ("read", "group", "g")


async def test_an_entry_is_created_once_listed_and_deleted(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    body = {"principal": "app", "operation": "read", "resource": {"type": "topic", "name": "orders"}}
    created = await keyed.post("/v1/acls", json=body, headers=principals.admin)
    again = await keyed.post("/v1/acls", json=body, headers=principals.admin)

    assert (created.status_code, again.status_code) == (201, 200)
    assert created.json() == again.json()
    assert created.json() | {"created_at_ms": 0} == body | {
        "acl_id": "1",
        "permission": "allow",
        "resource": {"type": "topic", "name": "orders", "pattern": "literal"},
        "host": "*",
        "created_at_ms": 0,
    }
    assert (await keyed.get("/v1/acls", headers=principals.admin)).json()["items"] == [created.json()]
    assert (await keyed.delete("/v1/acls/1", headers=principals.admin)).status_code == 204
    missing = await keyed.delete("/v1/acls/1", headers=principals.admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "UNKNOWN_ACL")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"principal": ""}, "principal"),
        ({"host": "example.com"}, "host"),
        ({"resource": {"type": "cluster", "name": "orders"}}, "resource.name"),
        ({"resource": {"type": "topic", "name": ""}}, "resource.name"),
        ({"resource": {"type": "topic", "name": "ord*", "pattern": "prefixed"}}, "resource.name"),
        ({"resource": {"type": "table", "name": "orders"}}, "resource/type"),
        ({"operation": "drop"}, "operation"),
    ],
)
async def test_a_field_that_is_not_valid_is_named(
    keyed: httpx2.AsyncClient, principals: Principals, fields: dict[str, Any], field: str
) -> None:
    body = {"principal": "app", "operation": "read", "resource": {"type": "topic", "name": "orders"}} | fields

    refused = await keyed.post("/v1/acls", json=body, headers=principals.admin)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"].replace(".", "/") == field.replace(".", "/")


async def test_the_number_of_entries_is_bounded(serve: Serve) -> None:
    _, client = await serve(auth="keys", admin_key=ADMIN_KEY, max_acls=1)
    principals = Principals(client)
    await principals.allow("app", "read", "topic", "orders")
    body = {"principal": "app", "operation": "write", "resource": {"type": "topic", "name": "orders"}}

    refused = await client.post("/v1/acls", json=body, headers=principals.admin)

    assert (refused.status_code, refused.json()["code"]) == (409, "ACCESS_LIMIT")


async def test_lists_page_over_what_is_hidden(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    for number in range(10):
        await keyed.put(f"/v1/topics/{'mine' if number % 4 == 0 else 'other'}-{number}", headers=principals.admin)
    mine = await principals.add("app")
    await principals.allow(
        "app", "describe", "topic", "mine", resource={"type": "topic", "name": "mine", "pattern": "prefixed"}
    )

    first = (await keyed.get("/v1/topics?limit=2", headers=mine)).json()
    second = (await keyed.get("/v1/topics", params={"limit": 2, "cursor": first["next_cursor"]}, headers=mine)).json()

    assert [item["name"] for item in first["items"]] == ["mine-0", "mine-4"]
    assert [item["name"] for item in second["items"]] == ["mine-8"]
    assert second["next_cursor"] is None


async def test_to_create_a_topic_on_the_way_needs_the_right_to_create(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    writer = await principals.add("writer", ("write", "topic", "*"))
    creator = await principals.add("creator", ("write", "topic", "*"), ("create", "cluster", "cluster"))
    body = {"produce": [{"topic": "new", "records": [{"value": 1}]}]}

    for refused in (
        await keyed.post("/v1/topics/new/records", json={"value": 1}, headers=writer),
        await keyed.post("/v1/transactions", json=body, headers=writer),
    ):
        assert (refused.status_code, refused.json()["code"]) == (403, "TOPIC_AUTHORIZATION_FAILED")
    assert (await keyed.get("/v1/topics/new", headers=principals.admin)).status_code == 404
    assert (await keyed.post("/v1/topics/new/records", json={"value": 1}, headers=creator)).status_code == 201


async def test_a_poll_needs_read_on_each_topic(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    await keyed.post("/v1/topics/orders/records", json={"value": 1}, headers=principals.admin)
    app = await principals.add("app", GROUP)
    acl_id = await principals.allow("app", "read", "topic", "orders")
    url, body = "/v1/groups/g/members/m/poll", {"topics": ["orders"], "auto_commit": True, "max_wait_ms": 0}
    joined = (await keyed.post(url, json=body, headers=app)).json()
    assert len(joined["records"]) == 1

    await keyed.post("/v1/topics/orders/records", json={"value": 2}, headers=principals.admin)
    await keyed.delete(f"/v1/acls/{acl_id}", headers=principals.admin)
    refused = await keyed.post(url, json=body, headers=app)
    by_epoch = await keyed.post(
        url, json={"member_epoch": joined["member_epoch"], "auto_commit": True, "max_wait_ms": 0}, headers=app
    )
    await principals.allow("app", "read", "topic", "orders")
    after = (await keyed.post(url, json=body, headers=app)).json()

    for answer in (refused, by_epoch):
        assert (answer.status_code, answer.json()["code"]) == (403, "TOPIC_AUTHORIZATION_FAILED")
    assert [record["value"] for record in after["records"]] == [2], "a refused poll commits and skips nothing"


def values(answer: httpx2.Response) -> set[str]:
    return {record["value"] for record in answer.json()["records"]}


async def test_a_pattern_covers_only_readable_topics(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    for topic in ("orders.eu", "orders.us", "orders.secret"):
        await keyed.post(f"/v1/topics/{topic}/records", json={"value": topic}, headers=principals.admin)
    app = await principals.add("app", GROUP, ("read", "topic", "orders.eu"), ("read", "topic", "orders.us"))
    body = {"topic_pattern": "orders.*", "auto_commit": True, "max_wait_ms": 0}

    first = await keyed.post("/v1/groups/g/members/m/poll", json=body, headers=app)
    await keyed.post("/v1/topics/orders.new/records", json={"value": "orders.new"}, headers=principals.admin)
    await principals.allow("app", "read", "topic", "orders.new")

    def poll() -> Awaitable[httpx2.Response]:
        return keyed.post("/v1/groups/g/members/m/poll", json=body, headers=app)

    second = await until(poll, lambda answer: "orders.new" in values(answer))
    assert values(first) == {"orders.eu", "orders.us"}
    assert "orders.secret" not in values(second)


async def test_commits_and_resets_and_transactions_need_read_on_the_topics(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    await keyed.post("/v1/topics/orders/records", json={"value": 1}, headers=principals.admin)
    app = await principals.add("app", GROUP, ("write", "topic", "invoices"), ("create", "topic", "invoices"))
    offset = {"topic": "orders", "partition": 0, "offset": 0}
    calls = [
        ("/v1/groups/g/offsets", {"offsets": [offset]}),
        ("/v1/groups/g/offsets/reset", {"topic": "orders", "to": "latest", "dry_run": False}),
        (
            "/v1/transactions",
            {
                "produce": [{"topic": "invoices", "records": [{"value": 1}]}],
                "commit": [{"group": "g", "offsets": [offset | {"from_offset": 0}]}],
            },
        ),
        ("/v1/transactions", {"commit": [{"group": "other", "offsets": [offset | {"from_offset": 0}]}]}),
    ]
    codes = [(await keyed.post(path, json=body, headers=app)).json()["code"] for path, body in calls]

    assert codes == [*["TOPIC_AUTHORIZATION_FAILED"] * 3, "GROUP_AUTHORIZATION_FAILED"]
    assert (await keyed.get("/v1/topics/invoices", headers=principals.admin)).status_code == 404


async def test_a_queue_needs_read_on_its_topic_and_write_on_its_dead_letters(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    app = await principals.add("app", ("all", "queue", "*"))
    await keyed.put("/v1/topics/orders", headers=principals.admin)
    for body in ({"topic": "orders"}, {"topic": "orders", "dead_letter_topic": "dead"}):
        refused = await keyed.put("/v1/queues/jobs", json=body, headers=app)
        assert refused.json()["code"] == "TOPIC_AUTHORIZATION_FAILED"
        await principals.allow("app", "read", "topic", "orders")
    assert (await keyed.get("/v1/queues/jobs", headers=principals.admin)).status_code == 404

    await keyed.put("/v1/queues/jobs", json={"topic": "orders"}, headers=principals.admin)
    other = await principals.add("other", ("all", "queue", "*"))
    for path in ("acquire", "redrive"):
        refused = await keyed.post(f"/v1/queues/jobs/{path}", json={}, headers=other)
        assert refused.json()["code"] == "TOPIC_AUTHORIZATION_FAILED", path
    assert (await keyed.get("/v1/queues/jobs/records", headers=other)).status_code == 403
    assert (await keyed.post("/v1/queues/jobs/acquire", json={}, headers=app)).status_code == 200


async def test_a_source_needs_write_on_its_topic(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    app = await principals.add("app", ("all", "source", "*"))
    body = {"topic": "hooks", "verify": {"scheme": "none"}}

    refused = await keyed.put("/v1/sources/s", json=body, headers=app)
    await principals.allow("app", "write", "topic", "hooks")
    uncreated = await keyed.put("/v1/sources/s", json=body, headers=app)
    await principals.allow("app", "create", "topic", "hooks")

    for answer in (refused, uncreated):
        assert (answer.status_code, answer.json()["code"]) == (403, "TOPIC_AUTHORIZATION_FAILED")
    assert (await keyed.put("/v1/sources/s", json=body, headers=app)).status_code == 201


async def test_a_producer_needs_its_right_for_a_sequence(keyed: httpx2.AsyncClient, principals: Principals) -> None:
    app = await principals.add("app", ("all", "topic", "*"))
    stamp = {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Sequence": "0"}

    refused = await keyed.post("/v1/topics/orders/records", json={"value": 1}, headers=app | stamp)
    await principals.allow("app", "write", "producer", "p")

    assert (refused.status_code, refused.json()["code"]) == (403, "PRODUCER_AUTHORIZATION_FAILED")
    assert (await keyed.post("/v1/topics/orders/records", json={"value": 1}, headers=app | stamp)).status_code == 201


async def test_topics_of_the_server_are_read_by_their_literal_name_and_written_by_nobody(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    auditor = await principals.add("auditor", ("read", "topic", "__audit"))
    wide = await principals.add("wide", ("all", "topic", "*"))

    assert (await keyed.get("/v1/topics/__audit/records", headers=auditor)).status_code == 200
    assert (await keyed.get("/v1/topics/__audit/records", headers=wide)).status_code == 404
    assert [t["name"] for t in (await keyed.get("/v1/topics", headers=wide)).json()["items"]] == []
    for headers in (principals.admin, auditor):
        answer = await keyed.post("/v1/topics/__audit/records", json={"value": 1}, headers=headers)
        assert answer.status_code in {403, 422}
        assert (await keyed.delete("/v1/topics/__audit", headers=headers)).status_code in {403, 422}


async def test_the_address_of_an_entry_counts(serve: Serve) -> None:
    _, client = await serve(auth="keys", admin_key=ADMIN_KEY, trusted_proxies=("127.0.0.1",))
    principals = Principals(client)
    app = await principals.add("app")
    await principals.allow("app", "describe", "topic", "orders", host="10.0.0.1")
    await client.put("/v1/topics/orders", headers=principals.admin)

    answers = [
        (await client.get("/v1/topics/orders", headers=app | {"X-Forwarded-For": address})).status_code
        for address in ("10.0.0.1", "10.0.0.2")
    ]

    assert answers == [200, 404]


async def test_hosts_are_compared_as_addresses(serve: Serve) -> None:
    _, client = await serve(auth="keys", admin_key=ADMIN_KEY, trusted_proxies=("127.0.0.1",))
    principals = Principals(client)
    app = await principals.add("app", ("describe", "topic", "orders"))
    for host in ("2001:DB8:0:0::1", "10.0.0.9"):
        await principals.allow("app", "describe", "topic", "orders", host=host, permission="deny")
    await client.put("/v1/topics/orders", headers=principals.admin)

    answers = [
        (await client.get("/v1/topics/orders", headers=app | {"X-Forwarded-For": address})).status_code
        for address in ("2001:db8::1", "::ffff:10.0.0.9", "10.0.0.8")
    ]

    assert answers == [404, 404, 200]


async def test_to_confirm_what_exists_needs_the_right_to_describe_it(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    await keyed.put("/v1/topics/orders", json={"config": {"retention_ms": 1234}}, headers=principals.admin)
    await keyed.put("/v1/queues/jobs", json={"topic": "orders"}, headers=principals.admin)
    source = {"topic": "orders", "verify": {"scheme": "none"}}
    await keyed.put("/v1/sources/s", json=source, headers=principals.admin)
    app = await principals.add("app", ("create", "cluster", "cluster"))
    for operation in ("read", "write"):
        await principals.allow("app", operation, "topic", "other")

    answers = [
        await keyed.put("/v1/topics/orders", headers=app),
        await keyed.put("/v1/topics/orders", json={"partitions": 9}, headers=app),
        await keyed.put("/v1/queues/jobs", json={"topic": "other"}, headers=app),
        await keyed.put("/v1/sources/s", json=source | {"topic": "other"}, headers=app),
    ]

    for answer in answers:
        assert answer.status_code == 409
        assert "differing" not in answer.json()
        assert "may not describe" in answer.json()["detail"]


async def test_dead_letters_of_a_queue_go_where_its_changer_may_read_what_they_copy(
    keyed: httpx2.AsyncClient, principals: Principals
) -> None:
    await keyed.put("/v1/queues/jobs", json={"topic": "secret"}, headers=principals.admin)
    app = await principals.add("app", ("all", "queue", "*"), ("all", "topic", "mine"))
    body = {"dead_letter_topic": "mine", "max_delivery_count": 1}

    refused = await keyed.patch("/v1/queues/jobs", json=body, headers=app)
    await principals.allow("app", "read", "topic", "secret")

    assert refused.json()["code"] == "TOPIC_AUTHORIZATION_FAILED"
    assert (await keyed.patch("/v1/queues/jobs", json=body, headers=app)).status_code == 200


@pytest.mark.parametrize(
    ("operation", "resource", "field"),
    [
        ("read", {"type": "topic", "name": "orders.*"}, "resource.name"),
        ("read", {"type": "cluster", "name": "cluster"}, "operation"),
    ],
)
async def test_an_entry_that_can_never_match_is_refused(
    keyed: httpx2.AsyncClient, principals: Principals, operation: str, resource: dict[str, str], field: str
) -> None:
    body = {"principal": "app", "operation": operation, "resource": resource}

    refused = await keyed.post("/v1/acls", json=body, headers=principals.admin)

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
