"""Requests with the token of an OpenID Connect issuer."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.broker.access.issuers import jwk, signed
from tests.broker.outbound.receivers import Exchange, Server, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def issuer() -> AsyncIterator[Server]:
    """An issuer on this machine, without TLS."""

    async def answer(exchange: Exchange) -> None:
        url = url_of(server)
        configuration = {"issuer": url, "jwks_uri": f"{url}/keys"}
        document = configuration if b"openid" in server.requests[-1] else {"keys": [jwk("RS256", "one")]}
        await exchange.answer(200, body=json.dumps(document).encode())

    async with running(answer) as server:
        yield server


@pytest.fixture
async def client(serve: Serve, issuer: Server) -> httpx2.AsyncClient:
    _, client = await serve(
        oidc_issuer=url_of(issuer),
        oidc_audience="millrace",
        oidc_allowed_networks="127.0.0.0/8",
        super_users=("oidc:root",),
    )
    return client


def url_of(issuer: Server) -> str:
    return f"http://127.0.0.1:{issuer.port}"


def bearer(issuer: Server, subject: str, lifetime_s: int = 300, **claims: Any) -> dict[str, str]:
    now_s = time.time_ns() // 1_000_000_000
    fields = {"iss": url_of(issuer), "aud": "millrace", "sub": subject, "exp": now_s + lifetime_s, **claims}
    return {"authorization": f"Bearer {signed(fields)}"}


async def test_a_token_has_the_rights_of_its_principal(client: httpx2.AsyncClient, issuer: Server) -> None:
    assert (await client.put("/v1/topics/orders", headers=bearer(issuer, "root"))).status_code == 201
    refused = await client.put("/v1/topics/orders", headers=bearer(issuer, "alice"))
    assert (refused.status_code, refused.json()["code"]) == (403, "TOPIC_AUTHORIZATION_FAILED")
    assert (await client.get("/v1/topics/orders", headers=bearer(issuer, "alice"))).status_code == 404
    assert len(issuer.requests) == 2


async def test_a_token_that_is_not_accepted_is_401_with_the_reason(client: httpx2.AsyncClient, issuer: Server) -> None:
    for headers, reason in (
        (bearer(issuer, "root", -31), "the token is expired"),
        (bearer(issuer, "root", aud="billing"), "the token is for another audience"),
        ({}, "this server needs a key"),
    ):
        refused = await client.get("/v1/topics", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "SASL_AUTHENTICATION_FAILED")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert refused.json()["detail"].startswith(reason)


async def test_without_the_keys_of_the_issuer_tokens_are_503(serve: Serve) -> None:
    _, client = await serve(oidc_issuer="http://127.0.0.1:1", oidc_audience="millrace", admin_key="a" * 32)
    answer = await client.get("/v1/topics", headers={"authorization": f"Bearer {signed({'sub': 'a'})}"})

    assert (answer.status_code, answer.json()["retriable"]) == (503, True)
    assert "retry-after" in answer.headers
    assert (await client.get("/v1/topics", headers={"x-api-key": "a" * 32})).status_code == 200
