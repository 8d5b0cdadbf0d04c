"""Real payloads of GitHub come in through a source and go out through a webhook, byte for byte."""

from __future__ import annotations

import gzip
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.api.webhooks.receiver import Post

pytestmark = pytest.mark.anyio

DATA = Path(__file__).resolve().parents[2] / "data" / "github-webhooks.ndjson.gz"
HUB_SECRET = "It's a Secret to Everybody"
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = "pull_request"
RETRY_DELAYS_MS = [1] * 20


def payloads() -> list[tuple[str, bytes]]:
    """Return the event and the body of each payload."""
    lines = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]
    return [(line["event"], json.dumps(line["payload"]).encode()) for line in lines]


def signed(event: str, body: bytes, identity: str, secret: str = HUB_SECRET) -> dict[str, str]:
    """Return the headers that GitHub sends."""
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": identity,
        "X-Hub-Signature-256": "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex(),
    }


async def create(client: httpx2.AsyncClient, url: str) -> str:
    """Create the sources and the webhook, and return the secret of the webhook."""
    hub = {
        "topic": "events",
        "verify": {"scheme": "github", "secret": HUB_SECRET},
        "key_from": "header:X-GitHub-Event",
        "headers": ["X-GitHub-Event"],
    }
    standard = {"topic": "events", "verify": {"scheme": "standard", "secret": STANDARD_SECRET}}
    for name, source in (("hub", hub), ("standard", standard)):
        answer = await client.put(f"/v1/sources/{name}", json=source)
        assert answer.status_code == 201, answer.text
    webhook = {
        "url": url,
        "topics": ["events"],
        "filter": {"key": True, "equals": EVENT},
        "retry_delays_ms": RETRY_DELAYS_MS,
    }
    answer = await client.put("/v1/webhooks/reviews", json=webhook)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


async def deliver_to_hub(client: httpx2.AsyncClient, sent: list[tuple[str, bytes]]) -> None:
    """Deliver all payloads, and forged, repeated and stale ones between them."""
    path = "/v1/sources/hub/events"
    for number, (event, body) in enumerate(sent):
        answer = await client.post(path, content=body, headers=signed(event, body, f"id-{number}"))
        assert answer.status_code == 200, answer.text
        if event == EVENT and number % 5 == 0:
            forged = await client.post(path, content=body, headers=signed(event, body, f"f-{number}", "a guess"))
            changed = signed(event, body, f"c-{number}")
            altered = await client.post(path, content=body.replace(b"open", b"shut", 1) + b" ", headers=changed)
            assert (forged.status_code, altered.status_code) == (401, 401)
        if event == EVENT:
            repeated = await client.post(path, content=body, headers=signed(event, body, f"id-{number}"))
            assert repeated.json()["duplicate"] is True
    await deliver_stale(client, sent[0][1])


async def deliver_stale(client: httpx2.AsyncClient, body: bytes) -> None:
    """Deliver a payload with a true signature of a time that has passed."""
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    headers = {
        "webhook-id": "old",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(STANDARD_SECRET).sign("old", moment, body.decode()),
    }
    stale = await client.post("/v1/sources/standard/events", content=body, headers=headers)
    assert stale.status_code == 401


def check(posts: list[Post], answered: list[tuple[Post, int]], secret: str, expected: list[bytes]) -> None:
    """Assert that each request verifies, and that the accepted ones are the expected bodies in order."""
    for post in posts:
        Webhook(secret).verify(post.body, post.headers)
        assert post.headers["millrace-key"] == EVENT
    accepted = [post for post, status in answered if status == 200]
    assert [post.body for post in accepted] == expected
    ids: dict[tuple[int, int], set[str]] = {}
    for post in posts:
        ids.setdefault(post.place, set()).add(post.message_id)
    assert {len(each) for each in ids.values()} == {1}
    assert len(set.union(*ids.values())) == len(expected)


async def test_payloads_of_github_reach_a_receiver_that_fails_every_third_request(
    migrated_url: str, tmp_path: Path
) -> None:
    sent = payloads()
    assert len(sent) == 329
    expected = [body for event, body in sent if event == EVENT]
    assert len(expected) > 20
    number = 0

    def answer(_: Post) -> Answer:
        nonlocal number
        number += 1
        return Answer(500 if number % 3 == 0 else 200)

    async with receiving(answer) as receiver:
        with ServerProcess(migrated_url, tmp_path, settings=SETTINGS) as node:
            async with node.client() as client:
                secret = await create(client, receiver.url)
                await deliver_to_hub(client, sent)

                async def counts() -> dict[str, Any]:
                    found: dict[str, Any] = (await client.get("/v1/webhooks/reviews")).json()["counts"]
                    return found

                found = await until(counts, lambda each: each["delivered"] + each["filtered"] == len(sent))
        assert "Traceback" not in node.log
    assert found["delivered"] == len(expected)
    assert sum(found.values()) == len(sent)
    check(receiver.posts, receiver.answered, secret, expected)
    assert len(receiver.posts) == len(expected) + number // 3
