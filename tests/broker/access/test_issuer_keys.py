"""The keys of an OpenID Connect issuer: fetched when needed, seldom, and used for a while without it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.access.issuer_keys import IssuerUnavailable
from app.domain.access.token import InvalidToken
from app.main.oidc import build_oidc_verifier
from app.settings import Settings
from tests.broker.access.issuers import (
    CLAIMS,
    CONFIGURATION_URL,
    ISSUER,
    JWKS_URL,
    NOW_S,
    Issuer,
    jwk,
    private_key,
    signed,
)
from tests.broker.outbound.certificates import Authority, make_authority
from tests.broker.outbound.receivers import Exchange, running
from tests.waiting import until_true

if TYPE_CHECKING:
    from app.broker.access.oidc import OidcVerifier
    from app.domain.access.token import Claims

pytestmark = pytest.mark.anyio

MINUTE_MS = 60_000
DAY_MS = 86_400_000


async def verify(verifier: OidcVerifier, token: str) -> Claims:
    return await verifier.verify(token, NOW_S)


def built(issuer: str, **settings: str) -> OidcVerifier:
    given = {"oidc_issuer": issuer, "oidc_audience": "millrace", **settings}
    verifier = build_oidc_verifier(Settings.model_validate(given), lambda: 0)
    assert verifier is not None
    return verifier


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def issuer() -> Issuer:
    made = Issuer()
    made.publish(jwk("RS256", "one"))
    return made


async def test_the_keys_are_fetched_with_the_first_token_and_then_used(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    assert issuer.fetched == []

    await asyncio.gather(*[verify(verifier, signed(CLAIMS)) for _ in range(20)])

    assert issuer.fetched == [CONFIGURATION_URL, JWKS_URL]


async def test_a_given_url_of_the_keys_replaces_the_configuration(issuer: Issuer) -> None:
    del issuer.documents[CONFIGURATION_URL]

    await verify(issuer.verifier(jwks_url=JWKS_URL), signed(CLAIMS))

    assert issuer.fetched == [JWKS_URL]


async def test_a_new_key_is_fetched_when_a_token_names_it_at_most_once_a_minute(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    await verify(verifier, signed(CLAIMS))
    issuer.publish(jwk("RS256", "two"))

    issuer.now_ms = MINUTE_MS - 1
    for number in range(50):
        with pytest.raises(InvalidToken):
            await verify(verifier, signed(CLAIMS, f"unknown-{number}", key=private_key("RS256", "two")))
    assert len(issuer.fetched) == 2

    issuer.now_ms = MINUTE_MS
    assert (await verify(verifier, signed(CLAIMS, "two"))).principal == "oidc:alice"
    with pytest.raises(InvalidToken):
        await verify(verifier, signed(CLAIMS, "one"))
    assert len(issuer.fetched) == 4


async def test_all_tokens_with_a_new_key_wait_for_the_same_fetch(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    await verify(verifier, signed(CLAIMS))
    issuer.publish(jwk("RS256", "two"))
    issuer.now_ms = MINUTE_MS
    issuer.proceed.clear()
    waiting = [asyncio.ensure_future(verify(verifier, signed(CLAIMS, "two"))) for _ in range(5)]
    await until_true(lambda: len(issuer.fetched) == 3)
    issuer.proceed.set()

    assert [(await each).principal for each in waiting] == ["oidc:alice"] * 5
    assert len(issuer.fetched) == 4


async def test_a_key_that_the_issuer_removes_ends_within_ten_minutes_and_one_request(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    await verify(verifier, signed(CLAIMS))
    issuer.publish(jwk("RS256", "two"))

    issuer.now_ms = 10 * MINUTE_MS
    await verify(verifier, signed(CLAIMS))
    await until_true(lambda: len(issuer.fetched) == 4)
    await until_true(lambda: verifier._keys._fetching is None)

    with pytest.raises(InvalidToken):
        await verify(verifier, signed(CLAIMS))


async def test_known_keys_are_used_for_a_day_while_the_issuer_is_away(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    await verify(verifier, signed(CLAIMS))
    issuer.fail()

    for hour in range(24):
        issuer.now_ms = max(1, hour * 60 * MINUTE_MS)
        await verify(verifier, signed(CLAIMS))
        await until_true(lambda: verifier._keys._fetching is None)
    with pytest.raises(IssuerUnavailable):
        await verify(verifier, signed(CLAIMS, "two"))

    issuer.now_ms = DAY_MS
    with pytest.raises(IssuerUnavailable):
        await verify(verifier, signed(CLAIMS))

    issuer.publish(jwk("RS256", "one"))
    issuer.now_ms += 5_000
    assert (await verify(verifier, signed(CLAIMS))).principal == "oidc:alice"


async def test_without_keys_the_issuer_is_asked_at_most_every_five_seconds(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.fail()
    verifier = issuer.verifier()
    for now_ms in (0, 1, 4_999, 5_000, 5_001):
        issuer.now_ms = now_ms
        with pytest.raises(IssuerUnavailable):
            await verify(verifier, signed(CLAIMS))

    assert issuer.fetched == [CONFIGURATION_URL] * 2
    assert [record.message for record in caplog.records] == [
        f"cannot fetch the keys of {ISSUER}: the connection was refused"
    ]


@pytest.mark.parametrize(
    ("url", "answer", "reason"),
    [
        (CONFIGURATION_URL, (404, {}), f"{CONFIGURATION_URL} answered 404"),
        (CONFIGURATION_URL, (302, {}), f"{CONFIGURATION_URL} answered 302"),
        (CONFIGURATION_URL, (200, b"<html>"), f"{CONFIGURATION_URL} answered no JSON"),
        (CONFIGURATION_URL, (200, []), "its configuration names another issuer"),
        (CONFIGURATION_URL, (200, {"issuer": "https://other.example"}), "its configuration names another issuer"),
        (CONFIGURATION_URL, (200, {"issuer": ISSUER.rstrip("/")}), "its configuration names another issuer"),
        (JWKS_URL, (200, b"[" * 100_000), f"{JWKS_URL} answered no JSON"),
        (JWKS_URL, (200, b'{"keys":["\xff"]}'), f"{JWKS_URL} answered no JSON"),
        (JWKS_URL, (200, {"keys": "none"}), "the keys are not a JWK set with a public key"),
        (JWKS_URL, (200, {"keys": []}), "the keys are not a JWK set with a public key"),
        (
            JWKS_URL,
            (200, {"keys": [1, None, {"kty": "oct", "k": "x"}]}),
            "the keys are not a JWK set with a public key",
        ),
        (JWKS_URL, (200, {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}] * 101}), "the keys are more than 100"),
    ],
)
async def test_wrong_documents_are_refused_with_the_reason_in_the_log(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, url: str, answer: tuple[int, Any], reason: str
) -> None:
    issuer.documents[url] = answer

    with pytest.raises(IssuerUnavailable):
        await verify(issuer.verifier(), signed(CLAIMS))

    assert reason in caplog.text


async def test_a_request_that_ends_does_not_end_the_fetch(issuer: Issuer) -> None:
    issuer.proceed.clear()
    verifier = issuer.verifier(jwks_url=JWKS_URL)
    first, second = (asyncio.ensure_future(verify(verifier, signed(CLAIMS))) for _ in range(2))
    await until_true(lambda: bool(issuer.fetched))
    first.cancel()
    issuer.proceed.set()

    assert (await second).principal == "oidc:alice"
    assert issuer.fetched == [JWKS_URL]


async def test_close_ends_a_fetch_that_is_under_way(issuer: Issuer) -> None:
    issuer.proceed.clear()
    verifier = issuer.verifier()
    waiting = asyncio.ensure_future(verify(verifier, signed(CLAIMS)))
    await until_true(lambda: bool(issuer.fetched))

    await verifier.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert issuer.is_closed


async def test_the_keys_of_an_issuer_in_an_allowed_network_come_over_tls(authority: Authority) -> None:
    keys = json.dumps({"keys": [jwk("RS256", "one"), {"x": "y" * 100_000}]}).encode()

    async def answer(exchange: Exchange) -> None:
        port = server.port
        issuer = f"https://127.0.0.1:{port}"
        document = json.dumps({"issuer": issuer, "jwks_uri": f"{issuer}/keys"}).encode()
        await exchange.answer(200, body=document if b"openid" in server.requests[-1] else keys)

    async with running(answer, tls=authority.server_context()) as server:
        issuer = f"https://127.0.0.1:{server.port}"
        verifier = built(issuer, oidc_allowed_networks="127.0.0.0/8", oidc_ca_file=str(authority.ca_file))

        assert (await verify(verifier, signed(CLAIMS | {"iss": issuer}))).principal == "oidc:alice"

        await verifier.close()
    assert [request.split(b" HTTP")[0] for request in server.requests] == [
        b"GET /.well-known/openid-configuration",
        b"GET /keys",
    ]
    assert b"content-length" not in server.requests[0].lower()


async def test_an_issuer_inside_the_network_is_refused_with_the_setting_that_allows_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never(_: Exchange) -> None:
        raise AssertionError

    async with running(never) as server:
        issuer = f"http://127.0.0.1:{server.port}"
        verifier = built(issuer)

        with pytest.raises(IssuerUnavailable):
            await verify(verifier, signed(CLAIMS))

        await verifier.close()
        assert server.connections == 0
    assert "MILLRACE_OIDC_ALLOWED_NETWORKS (127.0.0.0/8 for loopback)" in caplog.text
