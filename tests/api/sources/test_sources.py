"""Sources over HTTP: definitions, secrets, rotation and refusals."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

SECRET_KEY = "bWlsbHJhY2UgdGVzdHMgdXNlIHRoaXMgc2VjcmV0IDE="
SECRET = "the first secret of the sender"
URL = "/v1/sources/hub"
EVENTS = f"{URL}/events"


@pytest.fixture
async def sources(serve: Serve, sqlite_url: str) -> httpx2.AsyncClient:
    """A client of an application that can store secrets."""
    _, client = await serve(database_url=sqlite_url, secret_key=SECRET_KEY)
    return client


async def create(client: httpx2.AsyncClient, **settings: Any) -> Any:
    body = {"topic": "events", "verify": {"scheme": "github", "secret": SECRET}} | settings
    answer = await client.put(URL, json=body)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def deliver(client: httpx2.AsyncClient, body: bytes, secret: str = SECRET, **headers: str) -> httpx2.Response:
    signature = "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()
    return await client.post(EVENTS, content=body, headers={"X-Hub-Signature-256": signature} | headers)


async def refusals(client: httpx2.AsyncClient, number: int) -> list[Any]:
    """Return the refusals once there are so many; they are stored within a second."""

    async def read() -> list[Any]:
        return list((await client.get(f"{URL}/refusals")).json()["items"])

    return await until(read, lambda found: len(found) >= number)


def stored_bytes(folder: Path) -> bytes:
    """Return the files of an SQLite database."""
    return b"".join(path.read_bytes() for path in folder.glob("millrace.db*"))


async def test_a_source_is_created_confirmed_changed_and_deleted(sources: httpx2.AsyncClient) -> None:
    created = await create(sources, headers=["X-GitHub-Event"], key_from="/repository/full_name")
    assert created["delivery_url"] == EVENTS
    assert created["token"] is None
    assert (await sources.get("/v1/topics/events")).status_code == 200

    assert (await create(sources, headers=["X-GitHub-Event"], key_from="/repository/full_name"))["name"] == "hub"
    other = await sources.put(URL, json={"topic": "events", "verify": {"scheme": "github", "secret": SECRET + "x"}})
    assert (other.status_code, other.json()["code"]) == (409, "SOURCE_ALREADY_EXISTS")
    assert other.json()["differing"] == ["verify/secret"]

    moved = await sources.patch(URL, json={"topic": "moved"})
    assert moved.json()["created_topics"] == ["moved"]
    back = await sources.patch(URL, json={"topic": "events"})
    assert "created_topics" not in back.json()
    changed = await sources.patch(URL, json={"headers": None, "dedupe_ms": 1_000})
    assert (changed.json()["headers"], changed.json()["dedupe_ms"], changed.json()["key_from"]) == (
        [],
        1_000,
        "/repository/full_name",
    )
    assert [each["name"] for each in (await sources.get("/v1/sources")).json()["items"]] == ["hub"]
    assert (await sources.delete(URL)).status_code == 204
    for call in (sources.get(URL), sources.patch(URL, json={}), sources.delete(URL), deliver(sources, b"{}")):
        assert (await call).json()["code"] == "UNKNOWN_SOURCE"


async def test_the_scheme_of_a_source_stays(sources: httpx2.AsyncClient) -> None:
    await create(sources, verify={"scheme": "none"})
    other = {"scheme": "github", "secret": SECRET}

    put = await sources.put(URL, json={"topic": "events", "verify": other})
    patched = await sources.patch(URL, json={"verify": {"scheme": "github"}})

    assert (put.status_code, put.json()["differing"]) == (409, ["verify"])
    assert (patched.status_code, patched.json()["errors"][0]["field"]) == (422, "verify/scheme")
    assert (await sources.get(URL)).json()["verify"] == {"scheme": "none"}


async def test_secrets_are_never_shown(sources: httpx2.AsyncClient, tmp_path: Path) -> None:
    secrets = [SECRET, "another secret of it", "token of the challenge"]
    created = await create(sources, verify={"scheme": "meta", "secret": SECRET, "verify_token": secrets[2]})
    rotated = await sources.post(f"{URL}/rotate_secret", json={"secret": secrets[1]})
    answers = [
        json.dumps(created),
        rotated.text,
        (await sources.get(URL)).text,
        (await sources.get("/v1/sources")).text,
        (await sources.patch(URL, json={"description": "x"})).text,
        (await sources.put(URL, json={"topic": "x", "verify": {"scheme": "meta", "secret": SECRET}})).text,
        (await sources.patch(URL, json={"verify": {"scheme": "meta", "secret": SECRET}})).text,
        (await sources.put(URL, json={"topic": 1, "verify": {"scheme": "meta", "secret": SECRET}})).text,
        (await sources.put(URL, json={"topic": "x", "verify": {"scheme": "zoo", "secret": SECRET}})).text,
        (await sources.put(URL, json={"topic": "x", "verify": {"scheme": "standard", "secret": SECRET}})).text,
        (await deliver(sources, b"{}", "wrong")).text,
        json.dumps(await refusals(sources, 1)),
    ]

    assert [secret for secret in secrets for answer in answers if secret in answer] == []
    assert [secret for secret in secrets if secret.encode() in stored_bytes(tmp_path)] == []


async def test_sqlite_makes_a_key_for_its_owner_alone(serve: Serve, tmp_path: Path) -> None:
    _, client = await serve()

    await create(client)

    key = tmp_path / "millrace.db.secret-key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert (await deliver(client, b"{}")).status_code == 200


async def test_postgres_without_a_key_stores_no_secret(serve: Serve, migrated_postgres_url: str) -> None:
    _, client = await serve(database_url=migrated_postgres_url)

    answer = await client.put(URL, json={"topic": "events", "verify": {"scheme": "github", "secret": SECRET}})

    assert (answer.status_code, answer.json()["code"]) == (422, "SECRET_KEY_MISSING")
    assert "openssl rand -base64 32" in answer.json()["detail"]
    assert (await client.get(URL)).status_code == 404


async def test_a_wrong_key_is_unavailable_and_not_a_wrong_signature(serve: Serve, migrated_postgres_url: str) -> None:
    _, first = await serve(database_url=migrated_postgres_url, secret_key=SECRET_KEY)
    await create(first)
    _, second = await serve(database_url=migrated_postgres_url, secret_key=SECRET_KEY.replace("bWls", "AAAA"))

    answer = await deliver(second, b"{}")

    assert (answer.status_code, answer.json()["retriable"]) == (503, True)
    assert (await second.get(URL)).status_code == 200


async def test_both_secrets_are_accepted_during_a_rotation(sources: httpx2.AsyncClient) -> None:
    await create(sources)

    await sources.post(f"{URL}/rotate_secret", json={"secret": "the second secret"})
    assert (await deliver(sources, b"1")).status_code == 200
    assert (await deliver(sources, b"2", "the second secret")).status_code == 200

    rotated = await sources.post(f"{URL}/rotate_secret", json={"secret": "the third secret", "overlap_ms": 0})
    assert rotated.json()["previous_secret_until_ms"] is None
    assert [(await deliver(sources, b"3", secret)).status_code for secret in (SECRET, "the second secret")] == [
        401,
        401,
    ]
    assert (await deliver(sources, b"3", "the third secret")).status_code == 200


async def test_the_secret_before_a_rotation_ends_with_the_overlap(sources: httpx2.AsyncClient) -> None:
    await create(sources)
    await sources.post(f"{URL}/rotate_secret", json={"secret": "the second secret", "overlap_ms": 1})

    async def status() -> int:
        return (await deliver(sources, b"1")).status_code

    await until(status, lambda found: found == 401)


async def test_another_node_uses_a_new_secret_at_once(serve: Serve, migrated_postgres_url: str) -> None:
    _, first = await serve(database_url=migrated_postgres_url, secret_key=SECRET_KEY)
    _, second = await serve(database_url=migrated_postgres_url, secret_key=SECRET_KEY)
    await create(first)
    assert (await deliver(second, b"1")).status_code == 200

    await first.post(f"{URL}/rotate_secret", json={"secret": "the second secret"})

    assert (await deliver(second, b"2", "the second secret")).status_code == 200


async def test_every_refusal_has_one_body_and_its_reason_in_the_list(sources: httpx2.AsyncClient) -> None:
    await create(sources)
    wrong = await deliver(sources, b"hello", "wrong")
    missing = await sources.post(EVENTS, content=b"hello")

    assert wrong.status_code == missing.status_code == 401
    bodies = [{**answer.json(), "request_id": ""} for answer in (wrong, missing)]
    assert bodies[0] == bodies[1]
    assert bodies[0]["code"] == "INVALID_SIGNATURE"
    found = await refusals(sources, 2)
    assert [(each["reason"], each["size_bytes"]) for each in found] == [
        ("the header x-hub-signature-256 is missing", 5),
        ("no signature fits", 5),
    ]
    assert (await sources.get("/v1/topics/events/records")).json()["records"] == []


async def test_the_list_of_refusals_has_pages(sources: httpx2.AsyncClient) -> None:
    await create(sources)
    for _ in range(5):
        await deliver(sources, b"x", "wrong")
    await refusals(sources, 5)

    first = (await sources.get(f"{URL}/refusals", params={"limit": 3})).json()
    rest = (await sources.get(f"{URL}/refusals", params={"limit": 3, "cursor": first["next_cursor"]})).json()

    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (3, 2, None)


@pytest.mark.parametrize(
    ("verify", "field"),
    [
        ({"scheme": "github"}, "verify/secret"),
        ({"scheme": "github", "secret": "short"}, "verify/secret"),
        ({"scheme": "github", "secret": SECRET, "verify_token": "x"}, "verify/verify_token"),
        ({"scheme": "meta", "secret": SECRET}, "verify/verify_token"),
        ({"scheme": "none", "secret": SECRET}, "verify/secret"),
        ({"scheme": "basic", "secret": SECRET}, "verify/secret"),
        ({"scheme": "standard", "secret": "whsec_not base64"}, "verify/secret"),
        ({"scheme": "standard", "secret": "whsec_AAAAAAAAAAAAAAAAAAAA"}, "verify/secret"),
        ({"scheme": "standard", "secret": "whpk_AAAAAAAA"}, "verify/secret"),
        ({"scheme": "hmac", "secret": SECRET}, "verify/header"),
        ({"scheme": "hmac", "secret": SECRET, "header": "X-S", "template": "{body}{body}"}, "verify/template"),
        ({"scheme": "hmac", "secret": SECRET, "header": "X-S", "template": "{timestamp}{body}"}, "verify/template"),
        (
            {
                "scheme": "hmac",
                "secret": SECRET,
                "header": "X-S",
                "timestamp_header": "X-T",
                "template": "{timestamp}{body}",
                "tolerance_ms": 0,
            },
            "verify/tolerance_ms",
        ),
        ({"scheme": "github", "secret": SECRET, "allowed_origins": ["*"]}, "verify/allowed_origins"),
    ],
)
async def test_a_wrong_verification_names_its_field(
    sqlite_client: httpx2.AsyncClient, verify: dict[str, Any], field: str
) -> None:
    answer = await sqlite_client.put(URL, json={"topic": "events", "verify": verify})

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_CONFIG")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"key_from": "repository"}, "key_from"),
        ({"dedupe_from": "header:"}, "dedupe_from"),
        ({"dedupe_ms": -1}, "dedupe_ms"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"headers": ["Authorization"]}, "headers"),
        ({"headers": ["Cookie"]}, "headers"),
        ({"headers": ["not a header"]}, "headers"),
    ],
)
async def test_a_wrong_setting_names_its_field(
    sqlite_client: httpx2.AsyncClient, settings: dict[str, Any], field: str
) -> None:
    body = {"topic": "events", "verify": {"scheme": "github", "secret": SECRET}} | settings
    answer = await sqlite_client.put(URL, json=body)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_a_source_is_confirmed_by_the_fields_that_are_given(sources: httpx2.AsyncClient) -> None:
    await create(sources, key_from="/id", headers=["X-GitHub-Event"], description="the first one")

    same = {"topic": "events", "verify": {"scheme": "github"}}
    assert (await sources.put(URL, json=same)).status_code == 200
    assert (await sources.put(URL, json=same | {"key_from": "/id"})).status_code == 200
    differs = await sources.put(URL, json=same | {"key_from": "/other"})
    assert (differs.status_code, differs.json()["differing"]) == (409, ["key_from"])
    missing = await sources.put("/v1/sources/other", json=same)
    assert missing.status_code == 422


@pytest.mark.parametrize("cursor", ["9" * 19, "9" * 40, "-1", "x"])
async def test_a_cursor_of_another_list_is_refused(sources: httpx2.AsyncClient, cursor: str) -> None:
    await create(sources)

    answer = await sources.get(f"{URL}/refusals", params={"cursor": b64encode(cursor.encode()).decode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_CURSOR")


async def test_bodies_that_are_too_large_are_no_guesses_of_a_secret(sources: httpx2.AsyncClient) -> None:
    verify = {"scheme": "bearer", "secret": SECRET}
    await create(sources, verify=verify, max_body_bytes=1_024)
    headers = {"authorization": f"Bearer {SECRET}"}

    for _ in range(101):
        assert (await sources.post(EVENTS, content=bytes(1_025), headers=headers)).status_code == 413
    assert (await sources.post(EVENTS, content=b"{}", headers=headers)).status_code == 200
