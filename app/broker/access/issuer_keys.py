"""The public keys with which an OpenID Connect issuer signs tokens.

They are fetched when the first token comes, and again when they are old or a token names an unknown key. While the
issuer is away, those that are known are used for a day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from app.broker.outbound.exchange import Headers, Response, SendFailed
from app.domain.access.token import Fields, InvalidToken, TokenHeader, keys_for, usable_keys

MAX_DOCUMENT_BYTES = 256 * 1024
_REFRESH_MS = 600_000
"""Age at which the keys are fetched again. The known ones are used meanwhile."""
_LONGEST_USE_MS = 86_400_000
"""Age from which keys are not used any more."""
_UNKNOWN_KEY_INTERVAL_MS = 60_000
"""Shortest time between two fetches while there are keys: strangers can name unknown keys at any rate."""
_RETRY_MS = 5_000
"""Shortest time between two fetches without usable keys."""
_TIMEOUT_S = 5.0
_HEADERS: Headers = [(b"accept", b"application/json"), (b"user-agent", b"millrace")]
_CONFIGURATION = "/.well-known/openid-configuration"
_log = logging.getLogger(__name__)


class Fetcher(Protocol):
    """Sends GET requests; see `OutboundClient`."""

    async def get(self, url: str, headers: Headers, timeout_s: float) -> Response:
        """Send a GET request."""

    async def close(self) -> None:
        """Close all connections."""


class IssuerUnavailable(Exception):
    """The keys of the issuer cannot be fetched, so that no token can be judged. The log has the reason."""


class IssuerKeys:
    """The keys of one issuer.

    Args:
        fetcher: Fetches the documents; closed with this object.
        issuer: The URL of the issuer, which its configuration must name too.
        jwks_url: The URL of the keys; empty to take it from the configuration of the issuer.
        clock_ms: Monotonic clock in milliseconds.
    """

    def __init__(self, fetcher: Fetcher, issuer: str, jwks_url: str, clock_ms: Callable[[], int]) -> None:
        self._fetcher = fetcher
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._clock_ms = clock_ms
        self._keys: list[Fields] = []
        self._prepared: dict[tuple[int, str], PyJWK] = {}
        self._fetched_at_ms: int | None = None
        self._tried_at_ms: int | None = None
        self._is_failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, header: TokenHeader) -> PyJWK:
        """Return the key of a token.

        Raises:
            InvalidToken: The issuer has no such key.
            IssuerUnavailable: Its keys cannot be fetched.
        """
        await self._ensure_usable()
        found = self._match(header)
        if found is None and (self._fetching is not None or self._may_fetch(_UNKNOWN_KEY_INTERVAL_MS)):
            await self._fetch_once()
            found = self._match(header)
        if found is None and self._is_failing:
            raise IssuerUnavailable
        if found is None:
            raise InvalidToken("the issuer has no key of the id and type that the token names")
        return found

    async def close(self) -> None:
        """End a fetch that is under way, and close the connections to the issuer."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._fetcher.close()

    async def _ensure_usable(self) -> None:
        """Fetch the keys if there are none that may be used. If they are only old, fetch them in the background."""
        age_ms = self._age_ms()
        if age_ms is not None and age_ms < _LONGEST_USE_MS:
            if age_ms >= _REFRESH_MS and self._may_fetch(_UNKNOWN_KEY_INTERVAL_MS):
                self._begin_fetch()
            return
        if self._fetching is not None or self._may_fetch(_RETRY_MS):
            await self._fetch_once()
        age_ms = self._age_ms()
        if age_ms is None or age_ms >= _LONGEST_USE_MS:
            raise IssuerUnavailable

    def _match(self, header: TokenHeader) -> PyJWK | None:
        """Return the key for a header; without the id of a key, only if no other key fits."""
        found = keys_for(self._keys, header)
        if not found or (header.kid is None and len(found) > 1):
            return None
        place = id(found[0]), header.algorithm
        if place not in self._prepared:
            try:
                self._prepared[place] = PyJWK(dict(found[0]), header.algorithm)
            except PyJWTError:
                return None
        return self._prepared[place]

    def _age_ms(self) -> int | None:
        return None if self._fetched_at_ms is None else self._clock_ms() - self._fetched_at_ms

    def _may_fetch(self, interval_ms: int) -> bool:
        return self._tried_at_ms is None or self._clock_ms() - self._tried_at_ms >= interval_ms

    def _begin_fetch(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_at_ms = self._clock_ms()
            self._fetching = asyncio.create_task(self._fetch(), name="oidc-keys")
        return self._fetching

    async def _fetch_once(self) -> None:
        """Fetch the keys, or wait for the fetch that is under way. It goes on if the request ends."""
        await asyncio.shield(self._begin_fetch())

    async def _fetch(self) -> None:
        try:
            keys = usable_keys(await self._json(self._jwks_url or await self._discover()))
        except (SendFailed, ValueError) as error:
            if not self._is_failing:
                _log.warning("cannot fetch the keys of %s: %s", self._issuer, error)
            self._is_failing = True
        else:
            if self._is_failing:
                _log.info("the keys of %s can be fetched again", self._issuer)
            self._is_failing = False
            self._keys = keys
            self._prepared.clear()
            self._fetched_at_ms = self._clock_ms()
        finally:
            self._fetching = None

    async def _discover(self) -> str:
        """Return the URL of the keys from the configuration of the issuer.

        Raises:
            SendFailed: There is no answer.
            ValueError: The configuration is that of another issuer.
        """
        configuration = await self._json(self._issuer.rstrip("/") + _CONFIGURATION)
        if not isinstance(configuration, dict) or configuration.get("issuer") != self._issuer:
            raise ValueError("its configuration names another issuer; MILLRACE_OIDC_ISSUER must be equal to it")
        return str(configuration.get("jwks_uri"))

    async def _json(self, url: str) -> Any:  # noqa: ANN401 - a JSON document
        response = await self._fetcher.get(url, _HEADERS, _TIMEOUT_S)
        if response.status != 200:
            raise ValueError(f"{url} answered {response.status}")
        try:
            return msgspec.json.decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(f"{url} answered no JSON, or more than {MAX_DOCUMENT_BYTES} bytes") from None
