"""Create, confirm, change and delete sources, rotate their secrets, and cache them for their deliveries."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from app.broker.encryption.secret_box import SecretBox, WrongSecretKey
from app.broker.log.topics import TopicRequest, Topics
from app.domain.log.topic import check_name
from app.domain.sources.source import SourceConfig, SourceInfo, check_config, check_secret, raise_errors
from app.errors.database import ServiceUnavailable
from app.errors.webhooks import SourceAlreadyExists, UnknownSource
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.sources import sources
from app.storage.sources.sources import Refusal

MAX_OVERLAP_MS = 30 * 86_400_000
_CACHE_MS = 1_000
"""How long a node uses a source without reading it again: so long a change on another node takes."""
_TOKEN_BYTES = 24
_PAGE = 100
UNKNOWN_SOURCE = "there is no source of this name; PUT /v1/sources/{source} creates one"


class SourceSecrets(NamedTuple):
    """The secrets of a request.

    Attributes:
        secret: The secret of the scheme, or None.
        verify_token: The token of Meta's challenge, or None.
    """

    secret: str | None = None
    verify_token: str | None = None


class OpenSource(NamedTuple):
    """A source with its secrets, for the verification of a delivery.

    Attributes:
        secrets: The present secret, and the one before it while it is accepted.
        verify_token: The token of Meta's challenge, or the hash of the token in the path of the scheme `none`.
    """

    info: SourceInfo
    secrets: tuple[bytes, ...]
    verify_token: bytes | None


class CreatedSource(NamedTuple):
    """A source that was created or confirmed.

    Attributes:
        token: The token of its delivery path with the scheme `none`, if it is new.
        created_topics: Its topic, if that did not exist.
    """

    info: SourceInfo
    is_new: bool
    token: str | None = None
    created_topics: tuple[str, ...] = ()


class Sources:
    """The sources of an installation.

    Args:
        clock_ms: Monotonic clock in milliseconds.
    """

    def __init__(self, storage: Storage, topics: Topics, box: SecretBox, clock_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._topics = topics
        self._box = box
        self._clock_ms = clock_ms
        self._cache: dict[str, tuple[int, OpenSource]] = {}

    async def get(self, name: str) -> SourceInfo:
        """Load a source from the database.

        Raises:
            UnknownSource: There is no source of this name.
        """
        check_name(name, "source")
        found = await self._storage.read(sources.find, name)
        if found is None:
            self._cache.pop(name, None)
            raise UnknownSource(UNKNOWN_SOURCE)
        return found

    async def list_(self, after: str, limit: int) -> list[SourceInfo]:
        """Return up to `limit` sources in order of their names, starting after the name `after`."""
        return await self._storage.read(sources.list_, after, limit)

    async def open(self, name: str, *, refresh: bool = False) -> OpenSource:
        """Return a source with its secrets, at most a second old; `refresh` loads it from the database.

        Raises:
            UnknownSource: There is no source of this name.
            ServiceUnavailable: Its secret cannot be decrypted.
        """
        now_ms = self._clock_ms()
        known = self._cache.get(name)
        if known is not None and not refresh and now_ms - known[0] < _CACHE_MS:
            return known[1]
        check_name(name, "source")
        found = await self._storage.read(_find, name)
        if found is None:
            self._cache.pop(name, None)
            raise UnknownSource(UNKNOWN_SOURCE)
        opened = self._opened(*found)
        self._cache[name] = now_ms, opened
        return opened

    async def create(self, name: str, fields: Mapping[str, Any], given: SourceSecrets) -> CreatedSource:
        """Create a source and its topic, or confirm an existing source: fields that are not given keep their values.

        Args:
            name: Name of the source.
            fields: The given fields of its configuration, `topic` and `verify` at least.
            given: The secrets; those of an existing source may be left out.

        Raises:
            InvalidSourceConfig, InvalidTopicName, SecretKeyMissing
            SourceAlreadyExists: The source exists, and a field differs.
            PolicyViolation: There are too many sources.
        """
        check_name(name, "source")
        config = SourceConfig(**fields)
        check_config(config)
        found = await self._storage.read(sources.find, name)
        if found is not None:
            self._confirm(found, fields, given)
            return CreatedSource(found, is_new=False)
        check_secret(config, given.secret)
        _check_verify_token(config, given)
        _, is_new_topic = await self._topics.create(config.topic, TopicRequest(None, {}))
        token = secrets.token_urlsafe(_TOKEN_BYTES) if config.verify.scheme == "none" else None
        info = await self._storage.write(self._create, name, config, given, token)
        if info is None:
            return await self.create(name, fields, given)
        self._cache.pop(name, None)
        return CreatedSource(info, is_new=True, token=token, created_topics=(config.topic,) if is_new_topic else ())

    async def change(
        self, name: str, change: Callable[[SourceConfig], SourceConfig], given: SourceSecrets
    ) -> tuple[SourceInfo, tuple[str, ...]]:
        """Change the configuration of a source. Its scheme stays.

        Returns:
            The source, and its topic if that did not exist and was created.

        Raises:
            UnknownSource, InvalidSourceConfig, InvalidTopicName
        """
        before = await self.get(name)
        changed = change(before.config)
        check_config(changed)
        _check_same_scheme(before.config, changed)
        if given.secret is not None:
            raise_errors([("verify/secret", "is changed with POST /v1/sources/{source}/rotate_secret")])
        _check_verify_token(changed, given, present=before.verify_token is not None)
        _, is_new_topic = await self._topics.create(changed.topic, TopicRequest(None, {}))
        info = await self._storage.write(self._change, name, change, given.verify_token)
        self._cache.pop(name, None)
        if info is None:
            raise UnknownSource(UNKNOWN_SOURCE)
        return info, (changed.topic,) if is_new_topic else ()

    async def rotate(self, name: str, secret: str, overlap_ms: int) -> SourceInfo:
        """Replace the secret of a source. The one before it is accepted for another `overlap_ms`.

        Raises:
            UnknownSource, InvalidSourceConfig
        """
        info = await self.get(name)
        check_secret(info.config, secret)
        if not 0 <= overlap_ms <= MAX_OVERLAP_MS:
            raise_errors([("overlap_ms", f"must be from 0 to {MAX_OVERLAP_MS:,}")])
        rotated = await self._storage.write(self._rotate, name, secret.encode(), overlap_ms)
        self._cache.pop(name, None)
        if rotated is None:
            raise UnknownSource(UNKNOWN_SOURCE)
        return rotated

    async def delete(self, name: str) -> None:
        """Delete a source, and keep its topic.

        Raises:
            UnknownSource: There is no source of this name.
        """
        check_name(name, "source")
        deleted = await self._storage.write(_delete, name)
        self._cache.pop(name, None)
        if not deleted:
            raise UnknownSource(UNKNOWN_SOURCE)

    async def refusals(self, name: str, before: int, limit: int) -> list[Refusal]:
        """Return up to `limit` refused deliveries with ids below `before`, the last one first.

        Raises:
            UnknownSource: There is no source of this name.
        """
        info = await self.get(name)
        return await self._storage.read(sources.refusals, info.source_id, before, limit)

    def _opened(self, info: SourceInfo, now_ms: int) -> OpenSource:
        try:
            found = [] if info.secret is None else [self._box.decrypt(info.secret, _bound(info, "secret"))]
            if info.previous_secret is not None and now_ms < info.previous_until_ms:
                found.append(self._box.decrypt(info.previous_secret, _bound(info, "secret")))
            token = info.verify_token
            if token is not None and info.config.verify.scheme == "meta":
                token = self._box.decrypt(token, _bound(info, "verify_token"))
        except WrongSecretKey as error:
            raise ServiceUnavailable(f"the secret of this source cannot be decrypted: {error}") from None
        return OpenSource(info, tuple(found), token)

    def _create(
        self, tx: Tx, name: str, config: SourceConfig, given: SourceSecrets, token: str | None
    ) -> SourceInfo | None:
        info = sources.create(tx, name, config, clock.read(tx))
        if info is None:
            return None
        sources.check_limit(tx, self._topics.limits.max_sources)
        if given.secret is not None:
            info = info._replace(secret=self._box.encrypt(given.secret.encode(), _bound(info, "secret")))
        if token is not None:
            info = info._replace(verify_token=sha256(token.encode()).digest())
        if given.verify_token is not None:
            encrypted = self._box.encrypt(given.verify_token.encode(), _bound(info, "verify_token"))
            info = info._replace(verify_token=encrypted)
        sources.save(tx, info)
        return info

    def _change(
        self, tx: Tx, name: str, change: Callable[[SourceConfig], SourceConfig], verify_token: str | None
    ) -> SourceInfo | None:
        info = sources.find_locked(tx, name)
        if info is None:
            return None
        changed = change(info.config)
        _check_same_scheme(info.config, changed)
        info = info._replace(config=changed)
        if verify_token is not None:
            encrypted = self._box.encrypt(verify_token.encode(), _bound(info, "verify_token"))
            info = info._replace(verify_token=encrypted)
        sources.save(tx, info)
        return info

    def _rotate(self, tx: Tx, name: str, secret: bytes, overlap_ms: int) -> SourceInfo | None:
        info = sources.find_locked(tx, name)
        if info is None:
            return None
        rotated = info._replace(
            secret=self._box.encrypt(secret, _bound(info, "secret")),
            previous_secret=info.secret if overlap_ms else None,
            previous_until_ms=clock.read(tx) + overlap_ms,
        )
        sources.save(tx, rotated)
        return rotated

    def _confirm(self, info: SourceInfo, fields: Mapping[str, Any], given: SourceSecrets) -> None:
        """Refuse a request that differs from an existing source."""
        differing = [field for field, value in fields.items() if value != getattr(info.config, field)]
        opened = self._opened(info, 0)
        is_same_scheme = fields["verify"].scheme == info.config.verify.scheme
        if (
            is_same_scheme
            and given.secret is not None
            and not hmac.compare_digest(opened.secrets[0], given.secret.encode())
        ):
            differing.append("verify/secret")
        if given.verify_token is not None and opened.verify_token != given.verify_token.encode():
            differing.append("verify/verify_token")
        if differing:
            raise SourceAlreadyExists(
                f"the source exists and differs in {', '.join(differing)}; PATCH /v1/sources/{{source}} changes it, "
                "and POST /v1/sources/{source}/rotate_secret its secret",
                differing=differing,
            )


def rewrap(tx: Tx, box: SecretBox) -> int:
    """Encrypt the secrets of all sources with the first key of the box. Return how many had another key.

    Raises:
        WrongSecretKey: No key decrypts a secret; the message names the source.
    """
    rewrapped, after = 0, ""
    while page := sources.list_(tx, after, _PAGE):
        for name in [info.name for info in page]:
            if (info := sources.find_locked(tx, name)) is not None:
                changed, number = _rewrapped(info, box)
                if number:
                    sources.save(tx, changed)
                rewrapped += number
        after = page[-1].name
    return rewrapped


def _rewrapped(info: SourceInfo, box: SecretBox) -> tuple[SourceInfo, int]:
    stored = {"secret": info.secret, "previous_secret": info.previous_secret}
    if info.config.verify.scheme == "meta":
        stored["verify_token"] = info.verify_token
    changed: dict[str, bytes] = {}
    for field, secret in stored.items():
        if secret is not None and not box.is_current(secret):
            bound_to = _bound(info, field.removeprefix("previous_"))
            try:
                changed[field] = box.encrypt(box.decrypt(secret, bound_to), bound_to)
            except WrongSecretKey as error:
                raise WrongSecretKey(f"source {info.name}: {error}") from None
    return info._replace(**changed), len(changed)  # type: ignore[arg-type] # the fields of secrets


def _find(tx: Tx, name: str) -> tuple[SourceInfo, int] | None:
    info = sources.find(tx, name)
    return None if info is None else (info, clock.read(tx))


def _delete(tx: Tx, name: str) -> bool:
    info = sources.find_locked(tx, name)
    if info is None:
        return False
    sources.delete_(tx, info.source_id)
    return True


def _bound(info: SourceInfo, field: str) -> str:
    return f"sources/{info.source_id}/{field}"


def _check_same_scheme(before: SourceConfig, changed: SourceConfig) -> None:
    if changed.verify.scheme != before.verify.scheme:
        raise_errors([("verify/scheme", "cannot be changed: delete the source, or create another one")])


def _check_verify_token(config: SourceConfig, given: SourceSecrets, *, present: bool = False) -> None:
    if config.verify.scheme == "meta":
        if given.verify_token is None and not present:
            raise_errors([("verify/verify_token", "is required by the scheme meta: the token of its challenge")])
    elif given.verify_token is not None:
        raise_errors([("verify/verify_token", "is for the scheme meta only")])
