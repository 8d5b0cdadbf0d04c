"""Transactions: records to several topics and offsets of several groups, all or nothing, in one of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from app.broker.groups.coordinator import load_or_create, refuse
from app.broker.groups.offsets import (
    Committer,
    Holder,
    OffsetCommit,
    Offsets,
    TopicGone,
    refuse_members,
    store,
    topics_change,
)
from app.broker.log.producer import Producer, ProduceRequest
from app.broker.log.topics import DRAFT, Topics
from app.broker.waiting.signals import Signals
from app.domain.groups.group import Group
from app.domain.log.append import Append, Appended, IdempotencyKey, KeyId, StoredKey, TopicVersionChanged
from app.domain.log.topic import TopicConfig, TopicInfo
from app.errors.broker_error import BrokerError
from app.errors.database import DiskFull
from app.errors.log import IdempotencyKeyReused, UnknownTopicOrPartition
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.groups import groups, members
from app.storage.groups.members import MemberSnapshot
from app.storage.groups.offsets import Commit
from app.storage.log import idempotency, topics
from app.storage.log.appends import append_all

_ATTEMPTS = 5
_NO_TOPIC = 0
"""The scope of the Idempotency-Keys of transactions, where those of produce have a topic's id."""


class TransactionRequest(NamedTuple):
    """What is to be done together. In every commit `from_offset` is given."""

    produce: Sequence[ProduceRequest]
    commit: Sequence[tuple[Committer, Sequence[OffsetCommit]]]
    key: IdempotencyKey | None


class TransactionResult(NamedTuple):
    """What was done: where the records of each topic lie, in the order of the request."""

    produced: list[Appended]
    duplicate: bool


class _Commits(NamedTuple):
    place: int
    committer: Committer
    commits: Sequence[Commit]

    @property
    def order(self) -> tuple[str, str]:
        """The order of locks: groups by name, in each the group before its members."""
        return self.committer.group, self.committer.member_id or ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Appended]).decode


class Transactions:
    """Runs transactions.

    Args:
        clock_ms: Wall clock in milliseconds, for the records' times.
        max_groups: How many groups there may be.
    """

    def __init__(
        self,
        storage: Storage,
        topics: Topics,
        signals: Signals,
        producer: Producer,
        offsets: Offsets,
        *,
        clock_ms: Callable[[], int],
        max_groups: int,
    ) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._producer = producer
        self._offsets = offsets
        self._clock_ms = clock_ms
        self._max_groups = max_groups

    async def run(self, request: TransactionRequest) -> TransactionResult:
        """Append all records and commit all offsets, or do nothing.

        Raises:
            BrokerError: What one part of it breaks; nothing is written.
        """
        if request.key is not None and (before := await self._storage.read(_replay, request.key, self._clock_ms())):
            return before
        if self._storage.full:
            raise DiskFull("the database has no space left; nothing was written")
        for _ in range(_ATTEMPTS):
            appends = []
            for index, one in enumerate(request.produce):
                with _naming("produce", index):
                    appends.append(await self._producer.prepare(one))
            commits = []
            for index, (committer, given) in enumerate(request.commit):
                with _naming("commit", index):
                    commits.append(_Commits(index, committer, await self._offsets.resolve(given)))
            try:
                done = await self._storage.write(
                    _run, appends, commits, request.key, self._clock_ms(), self._max_groups
                )
            except TopicGone:
                self._topics.drop({one.topic for one in request.produce})
                for _, given in request.commit:
                    self._offsets.look_again(given)
                continue
            if not done.duplicate:
                known = [one for one in appends if one.topic_id != DRAFT]
                self._signals.announce({one.partition_ids[number] for one in known for number in one.partitions})
            return done
        raise topics_change()


@contextmanager
def _naming(part: Literal["produce", "commit"], index: int) -> Iterator[None]:
    """Let a refusal say which part of the transaction it is of."""
    try:
        yield
    except BrokerError as refusal:
        if refusal.retriable:  # it is of the database, not of a part
            raise
        raise type(refusal)(f"{part} {index}: {refusal.detail}", **refusal.facts | {part: index}) from refusal


def _run(
    tx: Tx, appends: Sequence[Append], commits: Sequence[_Commits], key: IdempotencyKey | None, now_ms: int, most: int
) -> TransactionResult:
    committers = [(one, _lock(tx, one.committer, most)) for one in sorted(commits, key=lambda one: one.order)]
    if key is not None and (before := _claim(tx, key, now_ms)) is not None:
        return before
    for one, found in committers:
        with _naming("commit", one.place):
            _commit(tx, one, found)
    produced = _append(tx, _created(tx, appends, now_ms), now_ms)
    if key is not None:
        key_id = (_NO_TOPIC, key.key_hash)
        idempotency.settle(tx, [key_id], {key_id: StoredKey(key.fingerprint, _encode(produced))}, now_ms)
    return TransactionResult(produced, duplicate=False)


def _lock(tx: Tx, committer: Committer, max_groups: int) -> Group | MemberSnapshot | None:
    if committer.member_id is None:
        return load_or_create(tx, committer.group, max_groups)
    return members.load(tx, committer.group, committer.member_id)


def _commit(tx: Tx, one: _Commits, found: Group | MemberSnapshot | None) -> None:
    committer, holder = one.committer, None
    if found is None:
        raise refuse(tx, committer.group, committer.member_id or "")
    if isinstance(found, Group):
        refuse_members(found)
        groups.touch(tx, found, clock.read(tx))
    else:
        holder = Holder(found.member, committer.member_epoch)
    store(tx, found.group_id, holder, one.commits, repeats=False)


def _replay(tx: Tx, key: IdempotencyKey, now_ms: int) -> TransactionResult | None:
    """Return what was done under a key, if it is used; before anything else is looked at.

    Raises:
        IdempotencyKeyReused: It was another transaction.
    """
    return _done(key, idempotency.find(tx, [(_NO_TOPIC, key.key_hash)], now_ms))


def _claim(tx: Tx, key: IdempotencyKey, now_ms: int) -> TransactionResult | None:
    """Take a key, or wait for who has it, and do as `_replay`."""
    return _done(key, idempotency.claim(tx, [(_NO_TOPIC, key.key_hash)], now_ms))


def _done(key: IdempotencyKey, used: Mapping[KeyId, StoredKey]) -> TransactionResult | None:
    stored = used.get((_NO_TOPIC, key.key_hash))
    if stored is None:
        return None
    if stored.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused("this Idempotency-Key was used for another transaction; use a new key")
    return TransactionResult(_decode(stored.result), duplicate=True)


def _created(tx: Tx, appends: Sequence[Append], now_ms: int) -> list[Append]:
    """Create the topics that are missing, and return the appends with their ids."""
    made: dict[str, TopicInfo] = {}
    for one in appends:
        if one.topic_id == DRAFT and one.topic not in made:
            if not topics.create(tx, one.topic, len(one.partition_ids), {}, now_ms):
                raise TopicGone
            if (found := topics.find(tx, one.topic, TopicConfig())) is not None:
                made[one.topic] = found.info
    return [_with_ids(one, made[one.topic]) if one.topic_id == DRAFT else one for one in appends]


def _with_ids(append: Append, topic: TopicInfo) -> Append:
    return replace(append, topic_id=topic.topic_id, version=topic.version, partition_ids=topic.partition_ids)


def _append(tx: Tx, appends: Sequence[Append], now_ms: int) -> list[Appended]:
    produced = []
    for index, outcome in enumerate(append_all(tx, appends, now_ms) if appends else ()):
        if isinstance(outcome, TopicVersionChanged | UnknownTopicOrPartition):
            raise TopicGone
        with _naming("produce", index):
            if isinstance(outcome, BrokerError):
                raise outcome
            produced.append(outcome.appended)
    return produced
