"""Tokens of an OpenID Connect issuer: which are accepted, and why others are not."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from app.domain.access.token import Claims, InvalidToken
from tests.broker.access.issuers import CLAIMS, ISSUER, NOW_S, Issuer, jwk, private_key, segment, signed, signed_text

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),  # a short key is under test
]


@pytest.fixture
def issuer() -> Issuer:
    made = Issuer()
    made.publish(jwk("RS256", "one"), jwk("ES256", "two"), jwk("EdDSA", "three"))
    return made


async def reason_of(issuer: Issuer, token: str, **rules: Any) -> str:
    with pytest.raises(InvalidToken) as refused:
        await issuer.verifier(**rules).verify(token, NOW_S)
    return str(refused.value)


@pytest.mark.parametrize(("algorithm", "kid"), [("RS256", "one"), ("ES256", "two"), ("EdDSA", "three")])
async def test_a_token_of_the_issuer_names_a_principal(issuer: Issuer, algorithm: str, kid: str) -> None:
    found = await issuer.verifier().verify(signed(CLAIMS, kid, algorithm), NOW_S)

    assert found == Claims("oidc:alice", NOW_S + 330, CLAIMS)


async def test_another_claim_can_name_the_principal(issuer: Issuer) -> None:
    verifier = issuer.verifier(claim="client_id")

    assert (await verifier.verify(signed(CLAIMS | {"client_id": "shop"}), NOW_S)).principal == "oidc:shop"


async def test_one_of_several_audiences_is_enough(issuer: Issuer) -> None:
    verifier = issuer.verifier(audiences=("millrace", "https://log.example"))

    for audience in ("https://log.example", ["account", "millrace"]):
        assert (await verifier.verify(signed(CLAIMS | {"aud": audience}), NOW_S)).principal == "oidc:alice"


async def test_a_key_without_an_algorithm_verifies_each_allowed_one_of_its_type(issuer: Issuer) -> None:
    bare = jwk("RS256", "one")
    del bare["alg"]
    issuer.publish(bare)
    token = signed(CLAIMS, algorithm="PS512", key=private_key("RS256", "one"))

    verified = await issuer.verifier(("RS256", "PS512")).verify(token, NOW_S)

    assert verified.principal == "oidc:alice"
    assert "must be signed with RS256" in await reason_of(issuer, token, algorithms=("RS256",))


async def test_a_token_without_a_key_id_is_accepted_if_one_key_fits(issuer: Issuer) -> None:
    token = signed(CLAIMS, None)
    assert (await issuer.verifier().verify(token, NOW_S)).principal == "oidc:alice"

    issuer.publish(jwk("RS256", "one"), jwk("RS256", "other"))
    assert await reason_of(issuer, token) == "the issuer has no key of the id and type that the token names"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW_S - 30}, "the token is expired"),
        ({"exp": None}, "the token has no exp"),
        ({"exp": "soon"}, "the token must have seconds since 1970 in exp"),
        ({"exp": True}, "the token must have seconds since 1970 in exp"),
        ({"exp": float("inf")}, "the token must have seconds since 1970 in exp"),
        ({"exp": float("nan")}, "the token must have seconds since 1970 in exp"),
        ({"exp": 10**400}, "the token must have seconds since 1970 in exp"),
        ({"nbf": NOW_S + 31}, "the token is not valid yet (nbf)"),
        ({"iat": NOW_S + 31}, "the token is not valid yet (iat)"),
        ({"iss": "https://issuer.example/realms/shop"}, "the token is of another issuer"),
        ({"iss": [ISSUER]}, "the token is of another issuer"),
        ({"iss": None}, "the token has no iss"),
        ({"aud": "account"}, "the token is for another audience"),
        ({"aud": ["account", "billing"]}, "the token is for another audience"),
        ({"aud": ["account", ["millrace"]]}, "the token is for another audience"),
        ({"aud": {"millrace": True}}, "the token is for another audience"),
        ({"aud": []}, "the token has no aud"),
        ({"aud": None}, "the token has no aud"),
        ({"sub": None}, "the token has no sub, which names the principal"),
        ({"sub": ""}, "the token has no sub, which names the principal"),
        ({"sub": "a b"}, "the claim sub of the token names the principal oidc:…, which must be 1 to 249 characters"),
        ({"sub": "a\n"}, "the claim sub of the token names the principal oidc:…, which must be 1 to 249 characters"),
        ({"sub": "a" * 245}, "the claim sub of the token names the principal oidc:…, which must be 1 to 249 charact"),
    ],
)
async def test_wrong_claims_are_refused_with_the_reason(issuer: Issuer, changes: dict[str, Any], reason: str) -> None:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    token = signed(claims, key=private_key("RS256", "one"))

    assert (await reason_of(issuer, token)).startswith(reason)


async def test_times_have_a_leeway_of_thirty_seconds(issuer: Issuer) -> None:
    claims = CLAIMS | {"exp": NOW_S - 29, "nbf": NOW_S + 30, "iat": NOW_S + 30}

    assert (await issuer.verifier().verify(signed(claims), NOW_S)).expires_at_s == NOW_S + 1


async def test_an_e_mail_address_names_a_principal_only_if_it_is_verified(issuer: Issuer) -> None:
    claims = CLAIMS | {"email": "alice@example.com"}
    for unverified in (claims, claims | {"email_verified": False}, claims | {"email_verified": "true"}):
        assert "has not verified the e-mail address" in await reason_of(issuer, signed(unverified), claim="email")

    verified = await issuer.verifier(claim="email").verify(signed(claims | {"email_verified": True}), NOW_S)

    assert verified.principal == "oidc:alice@example.com"


async def test_an_unsigned_token_is_refused(issuer: Issuer) -> None:
    for algorithm in ("none", "None", "NONE", ""):
        head, claims = segment({"alg": algorithm, "kid": "one"}), segment(CLAIMS)
        for token in (f"{head}.{claims}.", f"{head}.{claims}.{segment(b'x')}"):
            assert "must be signed with RS256 or ES256 or EdDSA" in await reason_of(issuer, token)


async def test_a_token_that_is_signed_with_the_public_key_as_a_secret_is_refused(issuer: Issuer) -> None:
    pem = (
        private_key("RS256", "one")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
        content = f"{segment({'alg': algorithm, 'kid': 'one'})}.{segment(CLAIMS)}"
        token = f"{content}.{segment(hmac.digest(pem, content.encode(), digest))}"
        assert "must be signed with" in await reason_of(issuer, token)


async def test_a_changed_token_is_refused(issuer: Issuer) -> None:
    head, claims, signature = signed(CLAIMS).split(".")
    forged = segment(CLAIMS | {"sub": "root"})

    for token in (
        f"{head}.{forged}.{signature}",
        f"{segment({'alg': 'RS256', 'kid': 'one', 'typ': 'x'})}.{claims}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.{segment(bytes(256))}",
    ):
        assert await reason_of(issuer, token) == "the signature of the token is wrong"


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b", "a.b.c", "é.ü.ö", "mr_abc", "eyJhbGciOiJSUzI1NiJ9", "W10.e30.x", "bnVsbA.e30.x"],
)
async def test_what_is_no_token_is_refused(issuer: Issuer, token: str) -> None:
    assert await reason_of(issuer, token) == "this is neither a key nor a token of this server"
    assert issuer.fetched == []


async def test_a_header_nested_thousands_of_levels_is_refused(issuer: Issuer) -> None:
    token = f"{segment(b'[' * 3_000 + b']' * 3_000)}.{segment({})}.x"

    assert await reason_of(issuer, token) == "this is neither a key nor a token of this server"


async def test_signed_claims_nested_thousands_of_levels_are_refused(issuer: Issuer) -> None:
    token = signed_text(b"[" * 2_900 + b"]" * 2_900, private_key("RS256", "one"), "RS256", {"kid": "one"})

    assert (await reason_of(issuer, token)).startswith("the token cannot be decoded")


async def test_a_token_of_more_than_8_kib_is_refused_before_it_is_parsed(issuer: Issuer) -> None:
    assert await reason_of(issuer, signed(CLAIMS | {"x": "y" * 8_192})) == "the token is longer than 8192 bytes"
    assert issuer.fetched == []


async def test_critical_extensions_are_refused(issuer: Issuer) -> None:
    headers: list[dict[str, Any]] = [{"crit": ["b64"], "b64": True}, {"crit": ["exp"]}, {"crit": []}, {"b64": False}]
    for header in headers:
        token = f"{segment({'alg': 'RS256', 'kid': 'one', **header})}.{segment(CLAIMS)}.{segment(b'x')}"
        reason = await reason_of(issuer, token)
        assert "critical" in reason or reason == "this is neither a key nor a token of this server"


async def test_a_key_in_the_header_of_the_token_does_not_count(issuer: Issuer) -> None:
    own = rsa.generate_private_key(65_537, 2_048)
    header = {
        "jwk": jwk("RS256", "one"),
        "jku": "https://attacker.example/keys",
        "x5u": "https://attacker.example/certificate",
        "x5c": ["MIIB"],
    }

    assert await reason_of(issuer, signed(CLAIMS, key=own, header=header)) == "the signature of the token is wrong"
    assert (await issuer.verifier().verify(signed(CLAIMS, header=header), NOW_S)).principal == "oidc:alice"
    assert not [url for url in issuer.fetched if "attacker" in url]


async def test_the_key_of_another_algorithm_is_not_used(issuer: Issuer) -> None:
    missing = "the issuer has no key of the id and type that the token names"
    assert await reason_of(issuer, signed(CLAIMS, "one", "ES256")) == missing
    assert await reason_of(issuer, signed(CLAIMS, "two", "ES384"), algorithms=("ES256", "ES384")) == missing
    for kid in ("absent", "", "../../one", "one' OR '1'='1"):
        assert await reason_of(issuer, signed(CLAIMS, kid)) == missing
    token = f"{segment({'alg': 'RS256', 'kid': 1})}.{segment(CLAIMS)}.{segment(b'x')}"
    assert await reason_of(issuer, token) == "this is neither a key nor a token of this server"


async def test_a_short_key_is_not_used(issuer: Issuer) -> None:
    short = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - the test is about it
    numbers = short.public_key().public_numbers()
    published = {"kty": "RSA", "kid": "short", "n": segment(numbers.n.to_bytes(128)), "e": "AQAB"}
    issuer.publish(published)

    assert await reason_of(issuer, signed(CLAIMS, "short", key=short)) == (
        "the token cannot be decoded, or its key is too short"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"d": "AQAB"},
        {"kty": ["RSA"]},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"n": 5},
        {"alg": "RS512"},
    ],
)
async def test_keys_for_other_uses_are_not_used(issuer: Issuer, change: dict[str, Any]) -> None:
    issuer.publish(jwk("RS256", "one", **change), jwk("ES256", "two"))

    assert "has no key" in await reason_of(issuer, signed(CLAIMS))
