"""The cache of keys and access control lists, and the requests that it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.broker.access.access_control import AccessControl
from app.broker.access.acls import Acls
from app.broker.access.identities import AccessRules, Identity
from app.broker.access.keys import KeyRequest, Keys
from app.broker.access.stream_tokens import StreamTokens
from app.domain.access.acl import Acl, Resource
from app.domain.access.principal import Principal
from app.errors.access import AuthenticationFailed, TopicAuthorizationFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.errors.broker_error import BrokerError
    from app.storage.db.engine import Storage

pytestmark = pytest.mark.anyio

READ = Acl("app", "allow", "read", Resource("topic", "orders"))
ADMIN_KEY = "k" * 32


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Waiting:
    """A request that waits, with the right to read `orders`."""

    def __init__(self, control: AccessControl, identity: Identity) -> None:
        self.identity = identity
        self.version = control.version
        self.ended: BrokerError | None = None
        self._control = control

    def recheck(self) -> BrokerError | None:
        allowed = self._control.allows(self.identity.principal, "10.0.0.1", "read", "topic", "orders")
        return None if allowed else TopicAuthorizationFailed("denied")

    def end(self, error: BrokerError) -> None:
        self.ended = error


class Issuer:
    """Verifies every token as `oidc:alice`; each verification first runs `during`."""

    def __init__(self, during: Callable[[], Awaitable[None]]) -> None:
        self.verified = 0
        self._during = during

    async def close(self) -> None:
        return

    async def identify(self, token: str, now_ms: int) -> Identity:
        assert token == "a token"
        self.verified += 1
        if self.verified == 1:
            await self._during()
        return Identity(Principal("oidc:alice"), now_ms + 60_000)


class Parts:
    """What the tests use, on one storage."""

    def __init__(self, storage: Storage, issuer: Issuer | None = None) -> None:
        self.clock = Clock()
        self.control = AccessControl(storage, AccessRules("keys", admin_key=ADMIN_KEY), self.clock, self.clock, issuer)
        self.keys = Keys(storage, self.clock, 10, self.control.apply_change, first_is_admin=False)
        self.acls = Acls(storage, self.clock, 10, self.control.apply_change)
        self.tokens = StreamTokens(storage, self.clock)

    async def waiting(self, *, expires_at_ms: int | None = None) -> tuple[Waiting, str]:
        """Watch a request with a new key that may read. Return it and the id of its key."""
        created = await self.keys.create(KeyRequest("app", "app", expires_at_ms=expires_at_ms))
        await self.acls.create(READ)
        found = Waiting(self.control, await self.control.identify(created.text.encode()))
        self.control.watch(found)
        return found, created.stored.key_id


async def test_a_request_ends_when_its_key_is_revoked(storage: Storage) -> None:
    parts = Parts(storage)
    waiting, key_id = await parts.waiting()

    await parts.keys.revoke(key_id)

    assert isinstance(waiting.ended, AuthenticationFailed)


async def test_a_request_that_was_judged_before_a_change_and_watched_after_it_ends(storage: Storage) -> None:
    parts = Parts(storage)
    waiting, key_id = await parts.waiting()
    parts.control.unwatch(waiting)
    await parts.keys.revoke(key_id)

    parts.control.watch(waiting)
    await parts.control.refresh()

    assert isinstance(waiting.ended, AuthenticationFailed)


async def test_a_request_ends_when_its_right_ends_and_others_go_on(storage: Storage) -> None:
    parts = Parts(storage)
    waiting, _ = await parts.waiting()
    admin = Waiting(parts.control, await parts.control.identify(ADMIN_KEY.encode()))
    parts.control.watch(admin)

    await parts.acls.delete(1)

    assert isinstance(waiting.ended, TopicAuthorizationFailed)
    assert admin.ended is None


async def test_a_request_ends_when_its_key_expires(storage: Storage) -> None:
    parts = Parts(storage)
    waiting, _ = await parts.waiting(expires_at_ms=parts.clock.now_ms + 1_000)
    await parts.control.refresh()
    assert waiting.ended is None

    parts.clock.now_ms += 1_000
    await parts.control.refresh()

    assert isinstance(waiting.ended, AuthenticationFailed)


async def test_what_changed_during_a_verification_is_verified_again(storage: Storage) -> None:
    async def change() -> None:
        await parts.acls.create(READ)

    issuer = Issuer(change)
    parts = Parts(storage, issuer)

    await parts.control.identify(b"a token")
    await parts.control.identify(b"a token")

    assert issuer.verified == 2


async def test_names_that_no_resource_has_are_not_kept(storage: Storage) -> None:
    control = Parts(storage).control
    await control.refresh()

    assert not control.allows(Principal("app"), "10.0.0.1", "read", "topic", "x" * 250)
    assert control._decisions == {}


async def test_a_stream_token_lasts_no_longer_than_what_proved_its_principal(storage: Storage) -> None:
    async def nothing() -> None:
        return

    parts = Parts(storage, Issuer(nothing))
    identity = await parts.control.identify(b"a token")
    token, _ = await parts.tokens.create("/v1/x", identity)

    taken = await parts.control.take_stream_token(token, "/v1/x")

    assert taken == identity
    with pytest.raises(AuthenticationFailed):
        await parts.control.take_stream_token(token, "/v1/x")


async def test_the_name_of_the_admin_key_gives_no_rights(storage: Storage) -> None:
    control = Parts(storage).control

    assert await control.unreadable(Principal("admin"), ["orders"]) == {"orders"}
    assert await control.unreadable(Principal("admin", is_admin=True), ["orders"]) == frozenset()


async def test_refreshes_at_the_same_time_are_one(storage: Storage) -> None:
    control = Parts(storage).control
    await asyncio.gather(*(control.refresh() for _ in range(20)))

    assert control.is_fresh()
