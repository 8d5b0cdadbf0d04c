"""Verifies the tokens of an OpenID Connect issuer. Only imported by servers that have one."""

from __future__ import annotations

from typing import NamedTuple

import jwt
from jwt.exceptions import (
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from app.broker.access.identities import Identity
from app.broker.access.issuer_keys import IssuerKeys, IssuerUnavailable
from app.domain.access.principal import Principal
from app.domain.access.token import MAX_TOKEN_BYTES, Claims, InvalidToken, check_claims, read_header
from app.errors.access import AuthenticationFailed
from app.errors.database import ServiceUnavailable

DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")
_UNAVAILABLE = "the keys of the token issuer cannot be fetched; the log of the server has the reason"
_REQUIRED = ["exp", "iss", "aud"]


class OidcRules(NamedTuple):
    """Which tokens are accepted.

    Attributes:
        issuer: The issuer, as `iss` has it.
        audiences: A token must be for one of them.
        principal_claim: The claim that names the principal.
        algorithms: The algorithms with which tokens may be signed.
    """

    issuer: str
    audiences: tuple[str, ...]
    principal_claim: str = "sub"
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS


class OidcVerifier:
    """Verifies tokens.

    Args:
        rules: Which tokens are accepted.
        keys: The keys of the issuer.
    """

    def __init__(self, rules: OidcRules, keys: IssuerKeys) -> None:
        self._rules = rules
        self._keys = keys
        # The times are checked by the clock of the caller.
        self._jwt = jwt.PyJWT(
            {
                "require": _REQUIRED,
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            }
        )

    async def verify(self, token: str, now_s: int) -> Claims:
        """Return what a token says, if the issuer has signed it for this server and it is valid now.

        Args:
            token: The token, as it stands after `Bearer`.
            now_s: Wall clock in seconds.

        Raises:
            InvalidToken: It is not accepted.
            IssuerUnavailable: The keys of the issuer cannot be fetched.
        """
        rules = self._rules
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            unverified = jwt.get_unverified_header(token)
        except (PyJWTError, UnicodeError):
            raise InvalidToken("this is neither a key nor a token of this server") from None
        header = read_header(unverified, rules.algorithms)
        key = await self._keys.find(header)
        try:
            fields = self._jwt.decode(token, key, [header.algorithm], audience=rules.audiences, issuer=rules.issuer)
        except PyJWTError as error:
            raise InvalidToken(_reason(error)) from None
        return check_claims(fields, now_s, rules.principal_claim)

    async def identify(self, token: str, now_ms: int) -> Identity:
        """Return whom a token names, and until when.

        Raises:
            AuthenticationFailed: It is not accepted.
            ServiceUnavailable: The keys of the issuer cannot be fetched.
        """
        try:
            claims = await self.verify(token, now_ms // 1_000)
        except InvalidToken as error:
            raise AuthenticationFailed(str(error)) from None
        except IssuerUnavailable:
            raise ServiceUnavailable(_UNAVAILABLE) from None
        return Identity(Principal(claims.principal), claims.expires_at_s * 1_000)

    async def close(self) -> None:
        """End a fetch of keys that is under way, and close the connections to the issuer."""
        await self._keys.close()


def _reason(error: PyJWTError) -> str:
    """Return why a token is not accepted, without a word of it."""
    if isinstance(error, InvalidIssuerError):
        return "the token is of another issuer"
    if isinstance(error, InvalidAudienceError):
        return "the token is for another audience"
    if isinstance(error, MissingRequiredClaimError):
        return f"the token has no {error.claim}"
    if isinstance(error, InvalidSignatureError):
        return "the signature of the token is wrong"
    return "the token cannot be decoded, or its key is too short"
