"""An OpenID Connect issuer of the tests: its keys, its documents and its tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.broker.access.issuer_keys import IssuerKeys
from app.broker.access.oidc import OidcRules, OidcVerifier
from app.broker.outbound.exchange import Headers, Response, SendFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW_S = 1_800_000_000
ISSUER = "https://issuer.example/realms/shop/"
AUDIENCE = "millrace"
CONFIGURATION_URL = "https://issuer.example/realms/shop/.well-known/openid-configuration"
JWKS_URL = "https://issuer.example/keys"
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW_S + 300, "iat": NOW_S - 5}
_MAKERS: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(65_537, 2_048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
_JWK_OF: dict[str, Any] = {"RS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}


@cache
def private_key(algorithm: str, kid: str) -> Any:
    """Return the private key of an id; it stays the same."""
    return _MAKERS[algorithm]()


def jwk(algorithm: str, kid: str, **more: object) -> dict[str, Any]:
    """Return the public key of an id, as an issuer publishes it."""
    public: dict[str, Any] = _JWK_OF[algorithm[:2]].to_jwk(private_key(algorithm, kid).public_key(), as_dict=True)
    public.pop("key_ops", None)
    return public | {"kid": kid, "use": "sig", "alg": algorithm} | more


def signed(
    claims: dict[str, Any],
    kid: str | None = "one",
    algorithm: str = "RS256",
    key: Any = None,
    header: dict[str, Any] | None = None,
) -> str:
    """Return a token."""
    fields = {**(header or {}), **({} if kid is None else {"kid": kid})}
    return signed_text(json.dumps(claims).encode(), key or private_key(algorithm, kid or "one"), algorithm, fields)


def signed_text(claims: bytes, key: Any, algorithm: str, header: dict[str, Any]) -> str:
    """Return a token whose claims may be anything."""
    return jwt.PyJWS().encode(claims, key, algorithm, header)


def segment(value: object) -> str:
    """Return a part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Issuer:
    """The documents of the issuer, and how often they were fetched.

    Attributes:
        documents: The answers by URL: a status and a JSON value, or the text of a failure.
        fetched: The URLs, in order.
        proceed: Without it, answers wait.
    """

    documents: dict[str, tuple[int, Any] | str] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    now_ms: int = 0
    proceed: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.proceed.set()

    def publish(self, *keys: dict[str, Any]) -> None:
        self.documents[CONFIGURATION_URL] = (200, {"issuer": ISSUER, "jwks_uri": JWKS_URL})
        self.documents[JWKS_URL] = (200, {"keys": list(keys)})

    def fail(self, reason: str = "the connection was refused") -> None:
        self.documents = {CONFIGURATION_URL: reason, JWKS_URL: reason}

    async def get(self, url: str, _headers: Headers, _timeout_s: float) -> Response:
        self.fetched.append(url)
        answer = self.documents[url]
        if isinstance(answer, str):
            raise SendFailed(answer)
        await self.proceed.wait()
        status, document = answer
        return Response(status, [], document if isinstance(document, bytes) else json.dumps(document).encode())

    async def close(self) -> None:
        self.is_closed = True

    def verifier(
        self,
        algorithms: Sequence[str] = ("RS256", "ES256", "EdDSA"),
        audiences: Sequence[str] = (AUDIENCE,),
        claim: str = "sub",
        jwks_url: str = "",
    ) -> OidcVerifier:
        rules = OidcRules(ISSUER, tuple(audiences), claim, tuple(algorithms))
        return OidcVerifier(rules, IssuerKeys(self, ISSUER, jwks_url, lambda: self.now_ms))
