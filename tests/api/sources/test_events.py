"""Deliveries to sources: what becomes a record, repeats, challenges, limits."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import json
import random
import re
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving import client_of

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

DATA = Path(__file__).resolve().parents[2] / "data" / "github-webhooks.ndjson.gz"
SECRET_KEY = "bWlsbHJhY2UgdGVzdHMgdXNlIHRoaXMgc2VjcmV0IDE="
SECRET = "It's a Secret to Everybody"
URL = "/v1/sources/hub"
EVENTS = f"{URL}/events"


async def create(client: httpx2.AsyncClient, scheme: str = "github", **settings: Any) -> Any:
    verify = {"scheme": scheme} | ({} if scheme == "none" else {"secret": SECRET}) | settings.pop("verify", {})
    answer = await client.put(URL, json={"topic": "events", "verify": verify} | settings)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def deliver(
    client: httpx2.AsyncClient, body: bytes, identity: str | None = None, **headers: str
) -> httpx2.Response:
    signed = {"X-Hub-Signature-256": "sha256=" + hmac.digest(SECRET.encode(), body, "sha256").hex()}
    if identity is not None:
        signed["X-GitHub-Delivery"] = identity
    return await client.post(EVENTS, content=body, headers={"Content-Type": "application/json"} | signed | headers)


async def records(client: httpx2.AsyncClient) -> list[Any]:
    return list((await client.get("/v1/topics/events/records", params={"max_records": 1_000})).json()["records"])


async def test_all_payloads_of_github_become_records_once(serve: Serve, migrated_url: str) -> None:
    _, client = await serve(database_url=migrated_url, secret_key=SECRET_KEY)
    await create(client, key_from="header:X-GitHub-Event", headers=["X-GitHub-Event", "X-GitHub-Delivery"])
    lines = gzip.decompress(DATA.read_bytes()).splitlines()
    payloads = [(json.loads(line)["event"], json.dumps(json.loads(line)["payload"]).encode()) for line in lines]
    assert len(payloads) == 329

    for number, (event, body) in enumerate(payloads):
        forged = await deliver(client, body + b" ", f"forged-{number}", **{"X-Hub-Signature-256": "sha256=" + "0" * 64})
        if number < 90:  # below the limit of refusals of an address
            assert forged.status_code == 401
        answer = await deliver(client, body, f"id-{number}", **{"X-GitHub-Event": event})
        assert answer.status_code == 200, answer.text
    repeats = await asyncio.gather(
        *(
            deliver(client, body, f"id-{number}", **{"X-GitHub-Event": event})
            for number, (event, body) in enumerate(payloads)
        )
    )

    assert {(answer.status_code, answer.json()["duplicate"]) for answer in repeats} == {(200, True)}
    found: dict[str, Any] = {}
    for partition in range(4):
        url = f"/v1/topics/events/partitions/{partition}/records"
        page = await client.get(url, params={"max_records": 1_000, "max_bytes": 33_554_432})
        raw = {re.search(rb'"id-\d+"', line)[0]: line for line in page.content.split(b'{"partition":')[1:]}  # type: ignore[index] # is there
        for record in page.json()["records"]:
            headers = {each["name"]: each["value"] for each in record["headers"]}
            assert headers["X-GitHub-Event"] == record["key"]
            identity = headers["X-GitHub-Delivery"]
            found[identity] = record["key"], raw[json.dumps(identity).encode()]
    assert len(found) == 329
    for number, (event, body) in enumerate(payloads):
        key, raw_record = found[f"id-{number}"]
        assert key == event
        assert body in raw_record


async def test_a_repeat_is_told_by_its_id(serve: Serve, migrated_url: str) -> None:
    _, client = await serve(database_url=migrated_url, secret_key=SECRET_KEY)
    await create(client)

    first = (await deliver(client, b'{"a":1}', "one")).json()
    other = (await deliver(client, b'{"a":1}', "two")).json()
    repeat = (await deliver(client, b'{"a":2}', "one")).json()
    nameless = [(await deliver(client, b'{"a":1}')).json() for _ in range(2)]

    assert repeat == first | {"duplicate": True}
    assert "duplicate" not in first | other | nameless[0] | nameless[1]
    assert len(await records(client)) == 4


async def test_two_nodes_append_a_delivery_that_comes_at_once_to_both_once(
    serve: Serve, migrated_postgres_url: str
) -> None:
    nodes = [(await serve(database_url=migrated_postgres_url, secret_key=SECRET_KEY))[1] for _ in range(2)]
    await create(nodes[0])

    answers = await asyncio.gather(
        *(deliver(nodes[number % 2], b'{"a":1}', f"id-{number // 8}") for number in range(80))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert sum("duplicate" not in answer.json() for answer in answers) == 10
    assert len(await records(nodes[0])) == 10


async def test_dedupe_from_names_the_id_of_schemes_without_one(serve: Serve) -> None:
    _, client = await serve()
    await create(client, "bearer", dedupe_from="/event/id")
    headers = {"Authorization": f"Bearer {SECRET}"}

    answers = [
        (await client.post(EVENTS, content=body, headers=headers)).json()
        for body in (b'{"event":{"id":7},"n":1}', b'{"event":{"id":7},"n":2}', b'{"event":{}}', b'{"event":{}}')
    ]

    assert ["duplicate" in answer for answer in answers] == [False, True, False, False]


async def test_the_id_of_the_scheme_counts_where_dedupe_from_finds_none(sqlite_client: httpx2.AsyncClient) -> None:
    await create(sqlite_client, dedupe_from="/event/id")

    answers = [(await deliver(sqlite_client, b"{}", "one")).json() for _ in range(2)]

    assert ["duplicate" in answer for answer in answers] == [False, True]


async def test_without_dedupe_a_repeat_is_appended(serve: Serve) -> None:
    _, client = await serve()
    await create(client, dedupe_ms=0)

    answers = [(await deliver(client, b"{}", "one")).json() for _ in range(2)]

    assert ["duplicate" in answer for answer in answers] == [False, False]


@pytest.mark.parametrize(
    ("content_type", "body", "value", "encoding"),
    [
        ("application/json", b'{"n": 1.50}', {"n": 1.5}, None),
        ("application/vnd.x+json; charset=utf-8", b"[1]", [1], None),
        ("application/json", b"{broken", "{broken", "text"),
        ("application/json", b"\xff", "/w==", "base64"),
        ("application/json", b"null", None, None),
        ("application/json", b"[" * 501 + b"]" * 501, "[" * 501 + "]" * 501, "text"),
        ("application/json", b"", "", "text"),
        ("text/plain", "grüezi".encode(), "grüezi", "text"),
        ("application/x-www-form-urlencoded", b"a=1&b=%20", "a=1&b=%20", "text"),
        ("application/xml", b"<a/>", "<a/>", "text"),
        ("application/octet-stream", b"\x00\x01", "AAE=", "base64"),
        ("multipart/form-data; boundary=x", b"--x--", "LS14LS0=", "base64"),
        ("not a type", b"hi", "aGk=", "base64"),
        ("a/b, c/d", b"hi", "aGk=", "base64"),
    ],
)
async def test_the_body_is_the_value(
    sqlite_client: httpx2.AsyncClient, content_type: str, body: bytes, value: Any, encoding: str | None
) -> None:
    await create(sqlite_client)

    answer = await deliver(sqlite_client, body, **{"Content-Type": content_type})

    assert answer.status_code == 200, answer.text
    (record,) = await records(sqlite_client)
    assert (record["value"], record.get("encoding")) == (value, encoding)


async def test_only_chosen_headers_become_record_headers(sqlite_client: httpx2.AsyncClient) -> None:
    await create(sqlite_client, headers=["X-Chosen", "X-Missing"], key_from="/id")

    await deliver(sqlite_client, b'{"id":"k"}', **{"X-Chosen": "yes", "X-Other": "no", "Cookie": "secret"})
    await deliver(sqlite_client, b'{"id":null}')
    await deliver(sqlite_client, b'{"id":{}}')

    found = await records(sqlite_client)
    assert sorted((record["key"] or "", record.get("headers", [])) for record in found) == [
        ("", []),
        ("", []),
        ("k", [{"name": "X-Chosen", "value": "yes"}]),
    ]


async def test_a_delivery_needs_no_known_host_and_no_origin(serve: Serve) -> None:
    application, client = await serve(public_url="https://log.example.com")
    created = await create(client)
    assert created["delivery_url"] == "https://log.example.com/v1/sources/hub/events"

    async with client_of(application.asgi, host="log.example.com") as public:
        headers = {"Origin": "https://elsewhere.example.com", "Sec-Fetch-Site": "cross-site"}
        assert (await deliver(public, b"{}", **headers)).status_code == 200
        assert (await public.get(URL)).status_code == 421


async def test_twilio_signs_the_public_url_with_its_query(serve: Serve) -> None:
    _, client = await serve(public_url="https://log.example.com")
    await create(client, "twilio")
    text = f"https://log.example.com{EVENTS}?a=1Bodyhi"
    signature = b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha1")).decode()
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}

    answers = [await client.post(f"{EVENTS}{query}", content=b"Body=hi", headers=headers) for query in ("?a=1", "?a=2")]

    assert [answer.status_code for answer in answers] == [200, 401]


async def test_the_challenge_of_slack_is_answered_after_its_signature(serve: Serve) -> None:
    application, client = await serve()
    await create(client, "slack")
    body = b'{"token":"t","challenge":"3eZbrw1aB","type":"url_verification"}'
    now_s = str(application.services.clock() // 1000)
    signature = hmac.digest(SECRET.encode(), b"v0:" + now_s.encode() + b":" + body, "sha256").hex()
    headers = {"X-Slack-Request-Timestamp": now_s, "X-Slack-Signature": f"v0={signature}"}

    answer = await client.post(EVENTS, content=body, headers=headers)
    forged = await client.post(EVENTS, content=body, headers=headers | {"X-Slack-Signature": "v0=00"})

    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (
        200,
        "3eZbrw1aB",
        "text/plain; charset=utf-8",
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert forged.status_code == 401
    assert await records(client) == []


async def test_the_challenge_of_meta_is_answered_for_its_token(sqlite_client: httpx2.AsyncClient) -> None:
    await create(sqlite_client, "meta", verify={"verify_token": "a token"})
    query = {"hub.mode": "subscribe", "hub.verify_token": "a token", "hub.challenge": "1158201444"}

    answer = await sqlite_client.get(EVENTS, params=query)
    assert (answer.text, answer.headers["content-type"]) == ("1158201444", "text/plain; charset=utf-8")
    for change in (
        {"hub.verify_token": "b token"},
        {"hub.mode": "x"},
        {"hub.verify_token": ""},
        {"hub.verify_token": "ü"},
    ):
        assert (await sqlite_client.get(EVENTS, params=query | change)).status_code == 401


async def test_the_handshake_of_cloudevents_is_granted_to_allowed_origins(sqlite_client: httpx2.AsyncClient) -> None:
    await create(sqlite_client, verify={"allowed_origins": ["eventgrid.azure.net"]})
    headers = {"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "120"}

    granted = await sqlite_client.options(EVENTS, headers=headers)
    other = await sqlite_client.options(EVENTS, headers=headers | {"WebHook-Request-Origin": "example.com"})

    assert granted.headers["webhook-allowed-origin"] == "eventgrid.azure.net"
    assert granted.headers["webhook-allowed-rate"] == "*"
    assert "webhook-allowed-origin" not in other.headers
    assert (await sqlite_client.options(EVENTS)).status_code == 400


async def test_the_handshake_of_a_source_without_signatures_needs_its_token(sqlite_client: httpx2.AsyncClient) -> None:
    url = (await create(sqlite_client, "none", verify={"allowed_origins": ["eventgrid.azure.net"]}))["delivery_url"]
    headers = {"WebHook-Request-Origin": "eventgrid.azure.net"}

    assert (await sqlite_client.options(url, headers=headers)).headers[
        "webhook-allowed-origin"
    ] == "eventgrid.azure.net"
    assert (await sqlite_client.get(url)).status_code == 200
    for wrong in (EVENTS, url.replace(":", ":x")):
        assert (await sqlite_client.options(wrong, headers=headers)).status_code == 401


async def test_a_source_without_signatures_has_a_token_in_its_path(sqlite_client: httpx2.AsyncClient) -> None:
    created = await create(sqlite_client, "none")
    again = await sqlite_client.put(URL, json={"topic": "events", "verify": {"scheme": "none"}})

    assert len(created["token"]) == 32
    assert created["token"] not in again.text + (await sqlite_client.get(URL)).text
    assert (await sqlite_client.post(created["delivery_url"], content=b"hi")).status_code == 200
    for path in (EVENTS, "/v1/sources/hub:/events", f"/v1/sources/hub:{created['token']}x/events"):
        assert (await sqlite_client.post(path, content=b"hi")).status_code == 401


async def test_a_large_body_is_refused_before_it_is_read(serve: Serve) -> None:
    _, client = await serve()
    await create(client, max_body_bytes=1_000)
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(1_000):
            sent += 100
            yield b"x" * 100

    stated = await deliver(client, b"x" * 1_001)
    streamed = await client.post(EVENTS, content=endless())
    bomb = await client.post(EVENTS, content=gzip.compress(bytes(100_000)), headers={"Content-Encoding": "gzip"})

    assert [answer.status_code for answer in (stated, streamed, bomb)] == [413, 413, 413]
    assert stated.json()["max_bytes"] == 1_000
    assert (await deliver(client, b"x" * 1_000)).status_code == 200


async def test_many_refusals_slow_their_address_and_no_sender_with_a_signature(serve: Serve) -> None:
    _, client = await serve()
    await create(client)
    bad = {"X-Hub-Signature-256": "sha256=00"}

    statuses = [(await deliver(client, b"{}", **bad)).status_code for _ in range(105)]

    assert statuses == [401] * 100 + [429] * 5
    refused = await deliver(client, b"{}", **bad)
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert (await deliver(client, b"{}", "one")).status_code == 200


async def test_passwords_are_not_tried_further_after_many_refusals(serve: Serve) -> None:
    _, client = await serve()
    await create(client, "bearer")
    for _ in range(100):
        await client.post(EVENTS, headers={"Authorization": "Bearer wrong"})

    answer = await client.post(EVENTS, headers={"Authorization": f"Bearer {SECRET}"})

    assert answer.status_code == 429


async def test_a_refused_append_is_listed_and_leaves_the_id_free(sqlite_client: httpx2.AsyncClient) -> None:
    await create(sqlite_client)
    await sqlite_client.patch("/v1/topics/events", json={"config": {"max_message_bytes": 100}})

    too_large = await deliver(sqlite_client, b"x" * 200, "one")
    await sqlite_client.patch("/v1/topics/events", json={"config": {"max_message_bytes": 1_000}})
    repeated = await deliver(sqlite_client, b"x" * 200, "one")

    assert (too_large.status_code, repeated.status_code, "duplicate" in repeated.json()) == (413, 200, False)


async def test_hostile_headers_and_bodies_are_no_server_errors(serve: Serve) -> None:
    """Change deliveries of each scheme at random: the answer is 401, 413 or 429, never 200 and never 500."""
    _, client = await serve(public_url="https://log.example.com", max_body_bytes=100_000)
    random_ = random.Random(1)
    schemes: dict[str, Any] = {
        "github": "X-Hub-Signature-256",
        "meta": "X-Hub-Signature-256",
        "stripe": "Stripe-Signature",
        "slack": "X-Slack-Signature",
        "shopify": "X-Shopify-Hmac-Sha256",
        "twilio": "X-Twilio-Signature",
        "standard": "webhook-signature",
        "hmac": "X-Own",
        "basic": "Authorization",
        "bearer": "Authorization",
    }
    for scheme, header in schemes.items():
        verify: dict[str, Any] = {"scheme": scheme, "secret": "whsec_plJ3nmyCDGBKInavdOK15jsl"}
        verify |= {"header": "X-Own"} if scheme == "hmac" else {}
        verify |= {"verify_token": "a token"} if scheme == "meta" else {}
        verify |= {"secret": "user:password"} if scheme == "basic" else {}
        source = f"/v1/sources/{scheme}"
        made = await client.put(source, json={"topic": "events", "verify": verify, "key_from": "/a/0/b"})
        assert made.status_code == 201, made.text
        for _ in range(30):
            value = random_.randbytes(random_.randint(0, 90)).translate(None, b"\r\n\0")
            value = random_.choice([b"", b"v1,", b"sha256=", b"t=1,v1=", b"v0=", b"Basic ", b"Bearer "]) + value
            headers = [(header.encode(), value), (b"webhook-id", b"\xff"), (b"webhook-timestamp", b"1" * 13)]
            headers += [(b"x-slack-request-timestamp", random_.choice([b"", b"-1", "²".encode(), b"9" * 5_000]))]
            body = random_.choice([b"", b"{", b"[" * 90_000, b'{"a":[{"b":1}]}', b"\xff", random_.randbytes(100)])
            kind = random_.choice([b"application/json", b"application/x-www-form-urlencoded", b"\xff/\xff", b""])
            answer = await client.post(
                f"{source}/events?x=%ff&%zz", content=body, headers=[*headers, (b"content-type", kind)]
            )
            assert answer.status_code in {401, 429}, (scheme, value, body[:50], answer.text)
