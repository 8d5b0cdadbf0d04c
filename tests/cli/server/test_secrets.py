"""`millrace secrets rewrap`: the secrets of sources and webhooks, with another key, on both databases."""

from __future__ import annotations

import hmac
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import Cli
from tests.serving import running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

OLD, NEW = b64encode(b"o" * 32).decode(), b64encode(b"n" * 32).decode()
SECRET = "the first secret"
WEBHOOK_SECRET = "whsec_" + b64encode(b"w" * 32).decode()


async def create(settings: dict[str, Any]) -> None:
    """Create sources with one, two and no secrets."""
    async with running(settings) as (_, client):
        for name, verify in (
            ("hub", {"scheme": "github", "secret": SECRET}),
            ("meta", {"scheme": "meta", "secret": SECRET, "verify_token": "a token"}),
            ("open", {"scheme": "none"}),
        ):
            answer = await client.put(f"/v1/sources/{name}", json={"topic": "events", "verify": verify})
            assert answer.status_code == 201, answer.text
        await client.post("/v1/sources/hub/rotate_secret", json={"secret": "the second secret"})
        receiver = {"url": "https://a.example", "topics": ["events"], "paused": True}
        answer = await client.put("/v1/webhooks/crm", json=receiver | {"headers": {"x-token": "a token"}})
        assert answer.status_code == 201, answer.text
        await client.post("/v1/webhooks/crm/rotate_secret", json={"secret": WEBHOOK_SECRET})
        await client.put("/v1/webhooks/eu", json=receiver | {"signature": "ed25519"})


async def statuses(settings: dict[str, Any]) -> list[int]:
    """Deliver with both secrets, and answer a challenge."""
    async with running(settings) as (_, client):
        signatures = [
            "sha256=" + hmac.digest(key, b"{}", "sha256").hex() for key in (SECRET.encode(), b"the second secret")
        ]
        answers = [
            await client.post("/v1/sources/hub/events", content=b"{}", headers={"X-Hub-Signature-256": signature})
            for signature in signatures
        ]
        query = {"hub.mode": "subscribe", "hub.verify_token": "a token", "hub.challenge": "1"}
        answers.append(await client.get("/v1/sources/meta/events", params=query))
        return [answer.status_code for answer in answers]


async def secrets_of_webhooks(settings: dict[str, Any]) -> tuple[list[int], bool]:
    """Compare secret and headers of a webhook with those that it has, and tell whether a public key is known."""
    async with running(settings) as (_, client):
        given = ({"secret": WEBHOOK_SECRET}, {"headers": {"x-token": "a token"}}, {"headers": {"x-token": "another"}})
        answers = [await client.put("/v1/webhooks/crm", json=each) for each in given]
        described = await client.get("/v1/webhooks/eu")
        return [answer.status_code for answer in answers], described.json()["public_key"] is not None


async def test_secrets_are_encrypted_with_the_first_key(migrated_url: str, tmp_path: Path) -> None:
    settings = {"database_url": migrated_url}
    await create(settings | {"secret_key": OLD})
    database = ("--database-url", migrated_url)

    wrong = Cli(tmp_path, "", variables={"MILLRACE_SECRET_KEY": NEW})("secrets", "rewrap", *database)
    assert wrong.code == 1
    assert "source hub: no key of MILLRACE_SECRET_KEY decrypts this secret; nothing was changed" in wrong.err

    both = Cli(tmp_path, "", variables={"MILLRACE_SECRET_KEY": f"{NEW},{OLD}"})
    assert both.ok("secrets", "rewrap", *database).out == b"encrypted 8 secrets with the first key\n"
    assert both.ok("secrets", "rewrap", *database).out == b"encrypted 0 secrets with the first key\n"

    assert await statuses(settings | {"secret_key": NEW}) == [200, 200, 200]
    assert await statuses(settings | {"secret_key": OLD}) == [503, 503, 503]
    assert await secrets_of_webhooks(settings | {"secret_key": NEW}) == ([200, 200, 409], True)
    assert await secrets_of_webhooks(settings | {"secret_key": OLD}) == ([503, 503, 503], False)


async def test_the_key_beside_a_database_still_decrypts_after_the_setting_is_made(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings = {"database_url": sqlite_url}
    await create(settings)

    assert await statuses(settings | {"secret_key": NEW}) == [200, 200, 200]
    done = Cli(tmp_path, "", variables={"MILLRACE_SECRET_KEY": NEW}).ok(
        "secrets", "rewrap", "--database-url", sqlite_url
    )

    assert done.out == b"encrypted 8 secrets with the first key\n"
    (tmp_path / "millrace.db.secret-key").unlink()
    assert await statuses(settings | {"secret_key": NEW}) == [200, 200, 200]


def test_rewrap_needs_current_tables(tmp_path: Path) -> None:
    done = Cli(tmp_path, "")("secrets", "rewrap", "--database-url", f"sqlite:///{tmp_path}/new.db")

    assert done.code == 1
    assert "run millrace migrate first" in done.err


async def test_a_key_that_is_lost_is_not_replaced_without_a_word(sqlite_url: str, tmp_path: Path) -> None:
    settings = {"database_url": sqlite_url}
    await create(settings)
    key_file = tmp_path / "millrace.db.secret-key"
    kept = key_file.read_bytes()
    key_file.unlink()

    async with running(settings) as (_, client):
        source = {"topic": "events", "verify": {"scheme": "github", "secret": SECRET}}
        answer = await client.put("/v1/sources/another", json=source)
        assert (answer.status_code, answer.json()["code"]) == (422, "SECRET_KEY_MISSING")
        assert "millrace.db.secret-key is missing" in answer.json()["detail"]
    assert not key_file.exists()

    key_file.write_bytes(kept)
    assert await statuses(settings) == [200, 200, 200]
