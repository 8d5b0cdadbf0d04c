"""Transactions: records to several topics and offsets of several groups, all or nothing, in one of the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from app.broker.groups import load_or_create, refuse
from app.broker.offsets import Committer, OffsetCommit, Offsets, TopicGone, judge, refuse_members, store, topics_change
from app.broker.producer import Producer, ProduceRequest
from app.broker.signals import Signals
from app.broker.topics import Topics
from app.domain.append import Append, Appended, IdempotencyKey, StoredKey, TopicChanged
from app.domain.group import Group
from app.errors import BrokerError, IdempotencyKeyReused, UnknownTopicOrPartition
from app.storage import clock, groups, idempotency, log, members
from app.storage.engine import Storage, Tx
from app.storage.members import Standing
from app.storage.offsets import Commit

_ATTEMPTS = 5
_NO_TOPIC = 0
"""The scope of the Idempotency-Keys of transactions, where those of produce have a topic's id."""


class TransactionRequest(NamedTuple):
    """What is to be done together. In every commit `from_offset` is given."""

    produce: Sequence[ProduceRequest]
    commit: Sequence[tuple[Committer, Sequence[OffsetCommit]]]
    key: IdempotencyKey | None


class Done(NamedTuple):
    """What was done: where the records of each topic lie, in the order of the request."""

    produced: list[Appended]
    duplicate: bool


class _Commits(NamedTuple):
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

    async def run(self, request: TransactionRequest) -> Done:
        """Append all records and commit all offsets, or do nothing.

        Raises:
            BrokerError: What one part of it breaks; nothing is written.
        """
        for _ in range(_ATTEMPTS):
            appends = [await self._producer.prepare(one) for one in request.produce]
            commits = [_Commits(one, await self._offsets.resolve(given)) for one, given in request.commit]
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
                self._signals.announce({one.partition_ids[number] for one in appends for number in one.partitions})
            return done
        raise topics_change()


def _run(
    tx: Tx, appends: Sequence[Append], commits: Sequence[_Commits], key: IdempotencyKey | None, now_ms: int, most: int
) -> Done:
    committers = [(one, _lock(tx, one.committer, most)) for one in sorted(commits, key=lambda one: one.order)]
    if key is not None and (before := _claim(tx, key, now_ms)) is not None:
        return Done(before, duplicate=True)
    for one, found in committers:
        store(tx, _judge(tx, one, found), one.commits, repeats=False)
    produced = _append(tx, appends, now_ms)
    if key is not None:
        key_id = (_NO_TOPIC, key.key_hash)
        idempotency.settle(tx, [key_id], {key_id: StoredKey(key.fingerprint, _encode(produced))}, now_ms)
    return Done(produced, duplicate=False)


def _lock(tx: Tx, committer: Committer, max_groups: int) -> Group | Standing | None:
    if committer.member_id is None:
        return load_or_create(tx, committer.group, max_groups)
    return members.load(tx, committer.group, committer.member_id)


def _judge(tx: Tx, one: _Commits, found: Group | Standing | None) -> int:
    """Refuse who may not commit; return the id of the group."""
    committer = one.committer
    if isinstance(found, Group):
        refuse_members(found)
        groups.touch(tx, found, clock.read(tx))
    elif found is not None:
        judge(found.member, committer.member_epoch, one.commits)
    else:
        raise refuse(tx, committer.group, committer.member_id or "")
    return found.group_id


def _claim(tx: Tx, key: IdempotencyKey, now_ms: int) -> list[Appended] | None:
    """Take the key, and return what was produced under it before, or None.

    Raises:
        IdempotencyKeyReused: It was another transaction.
    """
    stored = idempotency.claim(tx, [(_NO_TOPIC, key.key_hash)], now_ms).get((_NO_TOPIC, key.key_hash))
    if stored is None:
        return None
    if stored.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused("this Idempotency-Key was used for another transaction; use a new key")
    return _decode(stored.result)


def _append(tx: Tx, appends: Sequence[Append], now_ms: int) -> list[Appended]:
    produced = []
    for outcome in log.append(tx, appends, now_ms) if appends else ():
        if isinstance(outcome, TopicChanged | UnknownTopicOrPartition):
            raise TopicGone
        if isinstance(outcome, BrokerError):
            raise outcome
        produced.append(outcome.appended)
    return produced
