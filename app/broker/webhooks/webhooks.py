"""Create, confirm, change, describe and delete webhooks, and rotate their secrets."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from app.broker.encryption.secret_box import SecretBox, WrongSecretKey
from app.broker.log.topics import TopicRequest, Topics
from app.broker.waiting.signals import Signals
from app.broker.webhooks import keys
from app.broker.webhooks.keys import bound_to, encrypt_headers, new_secret, open_keys
from app.broker.webhooks.webhook_queues import MayRead, add_queue, change_queues, matching_topics, remove_queue
from app.broker.webhooks.webhook_states import WebhookState, describe
from app.domain.access.principal import Principal
from app.domain.log.topic import TopicInfo, check_name
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.signature import check_seed, parse_secret
from app.domain.webhooks.webhook import SignatureScheme, WebhookConfig, check_config, check_headers, raise_errors
from app.errors.database import ServiceUnavailable
from app.errors.webhooks import UnknownWebhook, WebhookAlreadyExists
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.webhooks import attempts, webhooks
from app.storage.webhooks.attempts import Attempt, AttemptQuery
from app.storage.webhooks.webhooks import StoredWebhook

CHANGED = -(1 << 50)
"""Announced when a webhook was created, changed or deleted."""

_ATTEMPTS = 5
_MAX_OVERLAP_MS = 30 * 86_400_000
UNKNOWN_WEBHOOK = "there is no webhook of this name; PUT /v1/webhooks/{webhook} creates one"
_FIXED = frozenset({"ordering", "start", "signature"})


class WebhookSecrets(NamedTuple):
    """The secrets of a request: `whsec_…`, and static headers."""

    secret: str | None = None
    headers: Mapping[str, str] | None = None


class OwnerRights(NamedTuple):
    """Who makes a webhook, and what topics a pattern gives to it."""

    owner: Principal
    may_read: MayRead


class CreatedWebhook(NamedTuple):
    """A webhook that was created or confirmed.

    Attributes:
        secret: Its secret if it is new; with ed25519 its public key.
        created_topics: Its topics and its dead-letter topic, as far as they did not exist.
    """

    stored: StoredWebhook
    secret: str | None = None
    created_topics: tuple[str, ...] = ()


class Webhooks:
    """The webhooks of an installation."""

    def __init__(self, storage: Storage, topics: Topics, signals: Signals, box: SecretBox) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self.box = box

    async def get(self, name: str) -> StoredWebhook:
        """Load a webhook from the database.

        Raises:
            UnknownWebhook: There is no webhook of this name.
        """
        check_name(name, "webhook")
        found = await self._storage.read(webhooks.find, name)
        if found is None:
            raise UnknownWebhook(UNKNOWN_WEBHOOK)
        return found

    async def list_(self, after: str, limit: int) -> list[StoredWebhook]:
        """Return up to `limit` webhooks in order of their names, starting after the name `after`."""
        return await self._storage.read(webhooks.list_, after, limit)

    async def create(
        self, name: str, given: Mapping[str, Any], secrets: WebhookSecrets, rights: OwnerRights | None = None
    ) -> CreatedWebhook:
        """Create a webhook, its topics and its queues, or confirm an existing webhook.

        Args:
            name: Name of the webhook.
            given: The given fields.
            secrets: The given secrets.
            rights: The owner of the webhook; None on a server that needs no keys.

        Raises:
            InvalidWebhookConfig, InvalidTopicName, InvalidRequest, SecretKeyMissing
            WebhookAlreadyExists: The webhook exists, and a given field differs.
            PolicyViolation: There are too many webhooks.
        """
        check_name(name, "webhook")
        check_headers(secrets.headers or {})
        secret = _secret_of(secrets.secret)
        created: dict[str, None] = {}
        for _ in range(_ATTEMPTS):
            found = await self._storage.read(webhooks.find, name)
            config = _config_of(WebhookConfig(url="") if found is None else found.info.config, given)
            check_config(given, config)
            _check_secret(secret, config.signature)
            if found is not None:
                self._confirm(found, config, given, secrets)
                return CreatedWebhook(found)
            letters = await self._dead_letters(config, created)
            infos = [await self._topic(topic, created) for topic in config.topics]
            headers = dict(secrets.headers or {})
            made = await self._storage.write(self._create, name, config, secret, headers, infos, letters, rights)
            if made is not None:
                self._signals.announce([CHANGED])
                return CreatedWebhook(made, keys.format_secret(secret, config.signature), tuple(created))
        raise ServiceUnavailable("the webhook or its topics change too often; try again")

    async def change(
        self,
        name: str,
        given: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        rights: OwnerRights | None = None,
        *,
        takes_over: bool = False,
    ) -> tuple[StoredWebhook, tuple[str, ...]]:
        """Change a webhook. `paused` false also enables a disabled one.

        Args:
            name: Name of the webhook.
            given: The given fields.
            headers: The given static headers, or None.
            rights: Who changes it; None on a server that needs no keys.
            takes_over: Whether who changes it becomes its owner.

        Returns:
            The webhook, and its topics and its dead-letter topic as far as they were created.

        Raises:
            UnknownWebhook, InvalidWebhookConfig, InvalidTopicName
        """
        before = await self.get(name)
        if "secret" in given:
            raise_errors([("secret", "is changed with POST /v1/webhooks/{webhook}/rotate_secret")])
        config = _changed_config(before.info.config, given)
        if headers is not None:
            check_headers(headers)
        created: dict[str, None] = {}
        for _ in range(_ATTEMPTS):
            letters = await self._dead_letters(config, created)
            infos = [await self._topic(topic, created) for topic in given.get("topics") or ()]
            changed = await self._storage.write(
                self._change, name, given, headers, infos, letters, rights, takes_over=takes_over
            )
            if changed is not None:
                self._signals.announce([CHANGED])
                return changed, tuple(created)
            config = _changed_config((await self.get(name)).info.config, given)
        raise ServiceUnavailable("the webhook or its topics change too often; try again")

    async def rotate(self, name: str, secret: str | None, overlap_ms: int) -> tuple[StoredWebhook, str]:
        """Replace the secret. The one before it signs too for another `overlap_ms`. Return the new secret.

        Raises:
            UnknownWebhook, InvalidWebhookConfig
        """
        new = _secret_of(secret)
        if not 0 <= overlap_ms <= _MAX_OVERLAP_MS:
            raise_errors([("overlap_ms", f"must be from 0 to {_MAX_OVERLAP_MS:,}")])
        check_name(name, "webhook")
        rotated = await self._storage.write(self._rotate, name, new, overlap_ms)
        if rotated is None:
            raise UnknownWebhook(UNKNOWN_WEBHOOK)
        self._signals.announce([CHANGED])
        return rotated, keys.format_secret(new, rotated.info.config.signature)

    async def delete(self, name: str) -> None:
        """Delete a webhook with its queues and attempts, and keep its topics.

        Raises:
            UnknownWebhook: There is no webhook of this name.
        """
        check_name(name, "webhook")
        if not await self._storage.write_freeing(_delete, name):
            raise UnknownWebhook(UNKNOWN_WEBHOOK)
        self._signals.announce([CHANGED])

    async def describe(self, name: str) -> WebhookState:
        """Return a webhook, what it has delivered, and what waits.

        Raises:
            UnknownWebhook: There is no webhook of this name.
        """
        check_name(name, "webhook")
        found = await self._storage.read(describe, self.box, name)
        if found is None:
            raise UnknownWebhook(UNKNOWN_WEBHOOK)
        return found

    async def attempts(self, name: str, query: AttemptQuery, before: int, limit: int) -> list[Attempt]:
        """Return up to `limit` attempts with ids below `before`, the last one first.

        Raises:
            UnknownWebhook: There is no webhook of this name.
        """
        stored = await self.get(name)
        return await self._storage.read(attempts.list_, stored.info.webhook_id, query, before, limit)

    async def _topic(self, name: str, created: dict[str, None]) -> TopicInfo:
        """Return a topic; one that did not exist is created, and added to `created`."""
        info, is_new = await self._topics.create(name, TopicRequest(None, {}))
        if is_new:
            created[name] = None
        return await self._topics.refresh(info.name)

    async def _dead_letters(self, config: WebhookConfig, created: dict[str, None]) -> TopicInfo | None:
        if config.dead_letters is None:
            return None
        info = await self._topic(config.dead_letters, created)
        if info.config.compacted:
            raise_errors([("dead_letter_topic", "must have the cleanup_policy delete")])
        return info

    def _create(
        self,
        tx: Tx,
        name: str,
        config: WebhookConfig,
        secret: bytes,
        headers: dict[str, str],
        infos: Sequence[TopicInfo],
        letters: TopicInfo | None,
        rights: OwnerRights | None,
    ) -> StoredWebhook | None:
        made = webhooks.create(tx, name, config, clock.read(tx), None if rights is None else rights.owner)
        if made is None:
            return None
        webhooks.check_limit(tx, self._topics.limits.max_webhooks)
        webhook_id = made.info.webhook_id
        stored = made._replace(
            secret=self.box.encrypt(secret, bound_to(webhook_id, "secret")),
            headers=encrypt_headers(self.box, webhook_id, headers),
        )
        webhooks.save(tx, stored)
        for info in infos or matching_topics(tx, config, None if rights is None else rights.may_read):
            add_queue(tx, stored, info, letters, config.start)
        return webhooks.find(tx, name)

    def _change(
        self,
        tx: Tx,
        name: str,
        given: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        infos: Sequence[TopicInfo],
        letters: TopicInfo | None,
        rights: OwnerRights | None,
        *,
        takes_over: bool,
    ) -> StoredWebhook | None:
        """Change a webhook, or return None if it was deleted or has another dead-letter topic than was looked up."""
        stored = webhooks.find_locked(tx, name)
        if stored is None:
            return None
        before = stored.info.config
        config = _changed_config(before, given)
        if config.dead_letters != (None if letters is None else letters.name):
            return None
        info = stored.info._replace(config=config)
        if given.get("paused") is False:
            info = info._replace(disabled_reason=None, disabled_at_ms=None, breaker=Breaker())
            stored = stored._replace(held_until_ms=0)
        stored = stored._replace(info=info)
        if takes_over and rights is not None:
            stored = stored._replace(owner=rights.owner)
        if headers is not None:
            stored = stored._replace(headers=encrypt_headers(self.box, info.webhook_id, dict(headers)))
        webhooks.save(tx, stored)
        change_queues(
            tx,
            stored,
            before,
            infos or matching_topics(tx, config, None if rights is None else rights.may_read),
            letters,
        )
        return webhooks.find(tx, name)

    def _rotate(self, tx: Tx, name: str, secret: bytes, overlap_ms: int) -> StoredWebhook | None:
        stored = webhooks.find_locked(tx, name)
        if stored is None:
            return None
        _check_secret(secret, stored.info.config.signature)
        rotated = stored._replace(
            secret=self.box.encrypt(secret, bound_to(stored.info.webhook_id, "secret")),
            previous_secret=stored.secret if overlap_ms else None,
            previous_until_ms=clock.read(tx) + overlap_ms,
        )
        webhooks.save(tx, rotated)
        return rotated

    def _confirm(
        self, found: StoredWebhook, wanted: WebhookConfig, given: Mapping[str, Any], secrets: WebhookSecrets
    ) -> None:
        """Refuse a request that differs from an existing webhook."""
        differing = [field for field in given if getattr(wanted, field) != getattr(found.info.config, field)]
        try:
            if secrets.secret is not None:
                present = open_keys(self.box, found, 0).secrets[0]
                if not hmac.compare_digest(present, _secret_of(secrets.secret)):
                    differing.append("secret")
            if secrets.headers is not None and keys.open_headers(self.box, found) != dict(secrets.headers):
                differing.append("headers")
        except WrongSecretKey as error:
            raise ServiceUnavailable(f"the secrets of this webhook cannot be decrypted: {error}") from None
        if differing:
            raise WebhookAlreadyExists(
                f"the webhook exists and differs in {', '.join(differing)}; PATCH /v1/webhooks/{{webhook}} changes it",
                differing=differing,
            )


def _delete(tx: Tx, name: str) -> bool:
    stored = webhooks.find_locked(tx, name)
    if stored is None:
        return False
    for queue in webhooks.hidden_queues(tx, name):
        remove_queue(tx, queue)
    webhooks.delete_(tx, stored.info.webhook_id)
    return True


def _config_of(present: WebhookConfig, given: Mapping[str, Any]) -> WebhookConfig:
    """Return a configuration with the given fields; None restores a default."""
    defaults = msgspec.structs.asdict(WebhookConfig(url=present.url))
    fields = {name: defaults[name] if value is None else value for name, value in given.items()}
    for name in ("topics", "retry_delays_ms"):
        if name in fields:
            fields[name] = tuple(fields[name])
    if fields.get("topics") and "topic_pattern" not in fields:
        fields["topic_pattern"] = None
    if fields.get("topic_pattern") and "topics" not in fields:
        fields["topics"] = ()
    return msgspec.structs.replace(present, **fields)


def _changed_config(present: WebhookConfig, given: Mapping[str, Any]) -> WebhookConfig:
    """Return a checked configuration with the given fields; those that are fixed may have their present value."""
    config = _config_of(present, given)
    fixed = [field for field in sorted(_FIXED & given.keys()) if getattr(config, field) != getattr(present, field)]
    raise_errors([(field, "cannot be changed: delete the webhook, or create another one") for field in fixed])
    check_config(given, config)
    return config


def _secret_of(text: str | None) -> bytes:
    if text is None:
        return new_secret()
    try:
        return parse_secret(text)
    except ValueError as error:
        raise_errors([("secret", str(error))])
        raise


def _check_secret(secret: bytes, scheme: SignatureScheme) -> None:
    if scheme == "ed25519":
        try:
            check_seed(secret)
        except ValueError as error:
            raise_errors([("secret", str(error))])
