"""Who sends a request, and what they may do: keys and access control lists, with a cache of this node.

The cache is checked by the version in the database: at most every second while requests come. A change on another
node takes effect within two seconds; without the database the cache is used for four more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TypeVar

from app.broker.access.identities import AccessRules, Grant, GrantKey, Identity, TokenVerifier, WatchedAccess
from app.domain.access.acl import Acl, AclSet, Operation, ResourceType
from app.domain.access.api_key import parse_key
from app.domain.access.principal import ANONYMOUS, Principal
from app.errors.access import AuthenticationFailed
from app.errors.broker_error import BrokerError
from app.storage.access import acls, keys, stream_tokens
from app.storage.access.keys import StoredKey
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx

_STALE_MS = 4_000
"""Age from which the cache is not used without a look into the database."""
_CACHED = 4_096
MAX_NAME_CHARACTERS = 249
_USE_INTERVAL_MS = 60_000
"""How often the time of a key's last use is stored."""
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

ADMIN_PRINCIPAL = "admin"
"""The principal of `MILLRACE_ADMIN_KEY`."""

NO_CREDENTIAL = (
    "this server needs a key: send it as `Authorization: Bearer mr_…` or `X-API-Key: mr_…`; "
    "the command line takes it from MILLRACE_API_KEY"
)
_NO_KEYS = (
    "the server needs keys, because others can reach its address or by MILLRACE_AUTH=keys, and there is no key yet: "
    "run `millrace keys create --admin` with the same database URL, or set MILLRACE_ADMIN_KEY to at least 32 random "
    "characters (openssl rand -hex 32); MILLRACE_AUTH=none serves everyone who can reach it, without keys"
)
_INVALID_KEY = "the key is unknown, expired or revoked"
_EXPIRED = "the key or the token has expired"
_MALFORMED = "this is no key of this server: keys are mr_…, with a checksum that finds cut and mistyped ones"
_INVALID_STREAM_TARGET = (
    "the stream_token is unknown, used, expired, or was made for another path or query; "
    "POST /v1/stream_tokens makes a new one"
)


class AccessControl:
    """Authenticates requests and authorizes operations.

    Args:
        clock: Wall clock in milliseconds, which expires keys.
        monotonic_ms: Monotonic clock in milliseconds, for the age of the cache.
        verifier: Verifies tokens that are not keys; None without one.
    """

    def __init__(
        self,
        storage: Storage,
        rules: AccessRules,
        clock: Callable[[], int],
        monotonic_ms: Callable[[], int],
        verifier: TokenVerifier | None = None,
    ) -> None:
        self.enabled = rules.mode != "none"
        self.failures = 0
        """Requests without a valid key, for the metrics."""
        self._storage = storage
        self._rules = rules
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._verifier = verifier
        self._admin_hash = sha256(rules.admin_key.encode()).digest() if rules.admin_key else None
        self.compares_hosts = False
        """Whether the address of a client counts."""
        self._may_be_open = rules.mode == "auto" and rules.on_loopback and self._admin_hash is None and verifier is None
        self.open = self._may_be_open
        """Whether local requests need no key, as of the last check: no key was ever made."""
        self.version = -1
        """Rises with each change of keys and access control lists that this node has seen."""
        self._checked_at_ms: int | None = None
        self._was_used = False
        self._acls = AclSet()
        self.grants: dict[GrantKey, Grant] = {}
        self._keys: dict[str, StoredKey | None] = {}
        self._identities: dict[bytes, Identity] = {}
        self._decisions: dict[tuple[str, str, Operation, ResourceType, str], bool] = {}
        self._watched: set[WatchedAccess] = set()
        self._owners: dict[str, tuple[int, bool]] = {}
        self._used: set[str] = set()
        self._stored_use_at_ms: dict[str, int] = {}
        self._refreshing: asyncio.Future[None] | None = None

    def refusal_to_start(self) -> str | None:
        """Return why the server must not start, or None: it needs keys, and there are none. It blocks."""
        if not self.enabled or self._may_be_open or self._admin_hash is not None or self._verifier is not None:
            return None
        return None if self._storage.read_now(keys.any_exists) else _NO_KEYS

    def is_fresh(self) -> bool:
        """Return whether requests can be decided by the cache. It is checked again while this is asked."""
        self._was_used = True
        checked = self._checked_at_ms
        return checked is not None and self._monotonic_ms() - checked < _STALE_MS

    def needs_keys_at_start(self) -> bool:
        """Return whether all requests need a key. It blocks."""
        return self.enabled and (not self._may_be_open or self._storage.read_now(keys.any_exists))

    async def ensure_fresh(self) -> None:
        """Check the cache if it may be stale.

        Raises:
            ServiceUnavailable: The database is away, and the cache is too old to decide by it.
        """
        if not self.is_fresh():
            await self.refresh()

    async def refresh(self) -> None:
        """Drop the caches if keys or access control lists have changed, and end the requests that lost a right."""
        if not self.enabled:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._refresh())
        await asyncio.shield(self._refreshing)

    async def apply_change(self) -> None:
        """Apply a change of this node at once; without the database, requests wait until it can be applied."""
        if not self.enabled:
            return
        running, self._checked_at_ms = self._refreshing, None
        with contextlib.suppress(BrokerError):
            if running is not None:
                await asyncio.wait([running])  # it may have read before the change
            self._checked_at_ms = None
            await self.refresh()

    async def _refresh(self) -> None:
        started = self._monotonic_ms()
        version, any_key, loaded = await self._storage.read(_load, self.version)
        if loaded is not None:
            self._acls = AclSet(loaded)
            self.open = self._may_be_open and not any_key
            self.compares_hosts = self._acls.has_hosts
            self.version = version
            self.grants.clear()
            self._keys.clear()
            self._identities.clear()
            self._decisions.clear()
            self._owners.clear()
        self._checked_at_ms = started
        if self._watched:
            await self._end_refused()

    async def check(self) -> bool:
        """Refresh the cache if requests used it, and store the last uses of keys. Return False: no more to do now."""
        if self._was_used or self._watched:
            self._was_used = False
            await self.refresh()
        for grant in self.grants.values():
            if grant.was_used and (key_id := grant.identity.principal.key_id) is not None:
                grant.was_used = False
                self._used.add(key_id)
        if self._used:
            await self._store_uses()
        return False

    def keep_grant(self, key: GrantKey, grant: Grant) -> None:
        """Keep what admits the same request again, until the next change."""
        if grant.right is None or len(grant.right[2]) <= MAX_NAME_CHARACTERS:
            _keep(self.grants, key, grant)

    def has_expired(self, identity: Identity) -> bool:
        """Return whether what proves an identity has expired."""
        return identity.expires_at_ms is not None and identity.expires_at_ms <= self._clock()

    def known(self, credential: bytes) -> Identity | None:
        """Return whom a key or a token names if that is in the cache and it has not expired, else None."""
        found = self._identities.get(credential)
        if found is None or self.has_expired(found):
            return None
        if (key_id := found.principal.key_id) is not None:
            self._used.add(key_id)
        return found

    async def identify(self, credential: bytes | None) -> Identity:
        """Return whom a key or a token names.

        Raises:
            AuthenticationFailed: There is none, or it is not valid.
            ServiceUnavailable: It cannot be verified now.
        """
        if credential is None:
            raise self._failed(NO_CREDENTIAL)
        if (known := self.known(credential)) is not None:
            return known
        version: int | None = None
        while version != self.version:  # a key that is revoked meanwhile is looked up again
            version = self.version
            found = await self._verify(credential, self._clock())
        if self.has_expired(found):
            raise self._failed(_EXPIRED)
        _keep(self._identities, credential, found)
        if (key_id := found.principal.key_id) is not None:
            self._used.add(key_id)
        return found

    async def take_stream_token(self, token: str, target: str) -> Identity:
        """Use up a token for the path and query of a stream, and return whom it names.

        Raises:
            AuthenticationFailed: The token is not valid for them.
        """
        token_hash = sha256(token.encode()).digest()
        now_ms = self._clock()
        taken = await self._storage.read(stream_tokens.find, token_hash, target, now_ms)
        if taken is not None:  # what is not there costs no write
            taken = await self._storage.write(stream_tokens.take, token_hash, target, now_ms)
        if taken is None or (taken[0].name == ANONYMOUS.name and not self.open):
            raise self._failed(_INVALID_STREAM_TARGET)
        principal, expires_at_ms = taken
        if principal.key_id is None:
            return Identity(principal, expires_at_ms)
        key = await self._find_key(principal.key_id)
        if key is None:
            raise self._failed(_INVALID_KEY)
        return self._identity_of(key)

    def allows(
        self, principal: Principal, host: str, operation: Operation, resource_type: ResourceType, name: str
    ) -> bool:
        """Return whether a principal may run an operation on a resource."""
        if principal.is_admin:
            return True
        question = principal.name, host, operation, resource_type, name
        answer = self._decisions.get(question)
        if answer is None:
            answer = self._acls.allows(principal.name, host, operation, resource_type, name)
            if len(name) <= MAX_NAME_CHARACTERS:  # no resource has a longer one, and bodies may name anything
                _keep(self._decisions, question, answer)
        return answer

    async def unreadable(self, owner: Principal | None, topics: Iterable[str]) -> frozenset[str]:
        """Return those of some topics that the owner of a webhook may not read now.

        The rights of an admin last as long as the principal has a valid key of an admin. Without an owner there are no
        limits: the webhook was made on a server that needed no keys.

        Raises:
            ServiceUnavailable: The database is away, and the cache is too old to decide by it.
        """
        if owner is None or not self.enabled:
            return frozenset()
        await self.ensure_fresh()
        principal = Principal(owner.name, await self._is_admin_now(owner))
        return frozenset(name for name in topics if not self.allows(principal, "", "read", "topic", name))

    async def _is_admin_now(self, owner: Principal) -> bool:
        if owner.name in self._rules.super_users:
            return True
        if not owner.is_admin:
            return False
        if owner.name == ADMIN_PRINCIPAL and self._admin_hash is not None:
            return True
        now_ms = self._monotonic_ms()
        known = self._owners.get(owner.name)
        if known is None or now_ms - known[0] >= _STALE_MS:
            known = now_ms, await self._storage.read(keys.has_admin, owner.name, self._clock())
            self._owners[owner.name] = known
        return known[1]

    async def close(self) -> None:
        """Close the connections to the issuer of tokens."""
        if self._verifier is not None:
            await self._verifier.close()

    def watch(self, access: WatchedAccess) -> None:
        """Check the rights of a request that waits, until `unwatch`."""
        self._watched.add(access)

    def unwatch(self, access: WatchedAccess) -> None:
        """No longer check the rights of a request."""
        self._watched.discard(access)

    async def _verify(self, credential: bytes, now_ms: int) -> Identity:
        if self._admin_hash is not None and hmac.compare_digest(sha256(credential).digest(), self._admin_hash):
            return Identity(Principal(ADMIN_PRINCIPAL, is_admin=True))
        text = credential.decode("latin-1")
        parsed = parse_key(text)
        if parsed is None:
            if self._verifier is None or text.startswith("mr_"):
                raise self._failed(_MALFORMED)
            try:
                principal, expires_at_ms = await self._verifier.identify(text, now_ms)
            except AuthenticationFailed:
                self.failures += 1
                raise
            return Identity(principal._replace(is_admin=principal.name in self._rules.super_users), expires_at_ms)
        key = await self._find_key(parsed.key_id)
        if key is None or not hmac.compare_digest(key.secret_hash, parsed.secret_hash):
            raise self._failed(_INVALID_KEY)
        return self._identity_of(key)

    def _identity_of(self, key: StoredKey) -> Identity:
        is_admin = key.is_admin or key.principal in self._rules.super_users
        return Identity(Principal(key.principal, is_admin, key.key_id), key.expires_at_ms)

    async def _find_key(self, key_id: str) -> StoredKey | None:
        if key_id in self._keys:
            return self._keys[key_id]
        version = self.version
        key = await self._storage.read(keys.find, key_id)
        if version == self.version:
            _keep(self._keys, key_id, key)
        return key

    def _failed(self, detail: str) -> AuthenticationFailed:
        self.failures += 1
        return AuthenticationFailed(detail)

    async def _store_uses(self) -> None:
        """Store when keys were used, for each key once a minute."""
        used, self._used = self._used, set()
        now_ms = self._clock()
        due = {key_id: now_ms for key_id in used if now_ms - self._stored_use_at_ms.get(key_id, 0) >= _USE_INTERVAL_MS}
        if due:
            await self._storage.write(keys.record_uses, due)
            for key_id in due:
                _keep(self._stored_use_at_ms, key_id, now_ms)

    async def _end_refused(self) -> None:
        """End the watched requests whose key has ended, and those that lost a right since they were judged."""
        for access in list(self._watched):
            if (error := await self.refusal_of(access)) is not None:
                access.end(error)

    async def refusal_of(self, access: WatchedAccess) -> BrokerError | None:
        """Judge the rights of a request again, and return why it must end, or None."""
        principal = access.identity.principal
        if self.has_expired(access.identity):
            return AuthenticationFailed(_EXPIRED)
        version = self.version
        if access.version == version:
            return None
        if principal.key_id is not None and await self._find_key(principal.key_id) is None:
            return AuthenticationFailed(_INVALID_KEY)
        error = access.recheck()
        if error is None:
            access.version = version
        return error


def _keep(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Store a value in a cache, instead of the oldest one if the cache is full."""
    if len(cache) >= _CACHED:
        del cache[next(iter(cache))]
    cache[key] = value


def _load(tx: Tx, known_version: int) -> tuple[int, bool, list[Acl] | None]:
    """Return the version, and, if it is not the known one, whether there ever was a key and all entries."""
    version = keys.version(tx)
    if version == known_version:
        return version, False, None
    return version, keys.any_exists(tx), acls.load(tx)
