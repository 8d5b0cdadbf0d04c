"""Tokens of an OpenID Connect issuer: which headers, keys and claims are accepted. Pure.

Source: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7519 (JWT), RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from app.domain.access.principal import error_of

MAX_TOKEN_BYTES = 8 * 1024
LEEWAY_S = 30
"""By how much the clock of the issuer may differ."""
MAX_KEYS = 100

ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The algorithms that can be allowed, with the type and the curve of their keys. All have a public key: with HS256, all
that can verify a token can also make one."""

_PARTS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_LATEST_S = 1 << 53

Fields = Mapping[str, Any]


class InvalidToken(Exception):
    """The token is not accepted. The message is for its sender, and repeats nothing of the token."""


class TokenHeader(NamedTuple):
    """What counts of the header of a token.

    Attributes:
        algorithm: One of the allowed algorithms.
        kid: The id of the key, if the token names one.
    """

    algorithm: str
    kid: str | None


class Claims(NamedTuple):
    """What a verified token says.

    Attributes:
        principal: `oidc:` and the value of the claim that names the principal.
        expires_at_s: Until when the token is accepted, the leeway included.
        fields: All claims.
    """

    principal: str
    expires_at_s: int
    fields: Fields


def read_header(header: Fields, allowed: Collection[str]) -> TokenHeader:
    """Return what counts of a header. Keys and URLs of keys in it (`jwk`, `jku`, `x5c`, `x5u`) do not count.

    Raises:
        InvalidToken: The algorithm is not allowed, or the header has critical extensions.
    """
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in allowed:
        raise InvalidToken(f"the token must be signed with {' or '.join(allowed)}")
    if "crit" in header or "b64" in header:
        raise InvalidToken("the token has critical header fields, and this server supports none")
    if not isinstance(kid, str | None):
        raise InvalidToken("the id of the token's key must be a string")
    return TokenHeader(algorithm, kid)


def usable_keys(document: object) -> list[Fields]:
    """Return the public keys of a JWK set that can verify tokens.

    Raises:
        ValueError: The document is not a JWK set, or has no such key or too many.
    """
    keys = document.get("keys") if isinstance(document, dict) else None
    found: list[Fields] = [key for key in keys if _is_usable(key)] if isinstance(keys, list) else []
    if not found:
        raise ValueError("the keys are not a JWK set with a public key for signatures")
    if len(found) > MAX_KEYS:
        raise ValueError(f"the keys are more than {MAX_KEYS}")
    return found


def keys_for(keys: Iterable[Fields], header: TokenHeader) -> list[Fields]:
    """Return the keys that may have signed a token with this header."""
    return [key for key in keys if header.kid in (None, key.get("kid")) and _fits(key, header.algorithm)]


def check_claims(fields: Fields, now_s: int, principal_claim: str) -> Claims:
    """Check the times of a token of the right issuer and audience, and return whom it names.

    Raises:
        InvalidToken: It is expired or not yet valid, or names no principal.
    """
    until_s = _time(fields, "exp") + LEEWAY_S
    if until_s <= now_s:
        raise InvalidToken("the token is expired")
    for name in ("nbf", "iat"):
        if name in fields and _time(fields, name) > now_s + LEEWAY_S:
            raise InvalidToken(f"the token is not valid yet ({name})")
    return Claims(principal_of(fields, principal_claim), until_s, fields)


def principal_of(fields: Fields, claim: str) -> str:
    """Return the name of the principal in access control lists: `oidc:` and the value of a claim.

    Raises:
        InvalidToken: The claim cannot name a principal, or is an e-mail address that the issuer has not verified.
    """
    value = fields.get(claim)
    if not isinstance(value, str) or not value:
        raise InvalidToken(f"the token has no {claim}, which names the principal")
    name = f"oidc:{value}"
    if (wrong := error_of(name)) is not None:
        raise InvalidToken(f"the claim {claim} of the token names the principal oidc:…, which {wrong}")
    if claim == "email" and fields.get("email_verified") is not True:
        raise InvalidToken("the issuer has not verified the e-mail address of the token")
    return name


def _time(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST_S:
        raise InvalidToken(f"the token must have seconds since 1970 in {name}")
    return math.floor(value)


def _is_usable(key: object) -> bool:
    """Return whether a key is public and for signatures. A published private key proves nothing any more."""
    if not isinstance(key, dict) or not isinstance(kind := key.get("kty"), str):
        return False
    operations = key.get("key_ops", ["verify"])
    return (
        kind in _PARTS
        and all(isinstance(key.get(name), str) for name in _PARTS[kind])
        and "d" not in key
        and key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _fits(key: Fields, algorithm: str) -> bool:
    kind, curve = ALGORITHMS[algorithm]
    return key["kty"] == kind and curve in (None, key.get("crv")) and key.get("alg", algorithm) == algorithm
