"""Transactions: append records to several topics and commit offsets of several groups, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from app.broker.groups.group_transactions import load_or_create, member_not_found
from app.broker.groups.offsets import (
    Committer,
    CommittingMember,
    OffsetCommit,
    Offsets,
    commit_offsets,
    refuse_members,
    topic_changes_too_often,
)
from app.broker.log.producer import Producer, ProduceRequest
from app.broker.log.topics import DRAFT, StaleTopic, Topics
from app.broker.waiting.signals import Signals
from app.domain.groups.group import Group
from app.domain.limits.installation import InstallationLimits
from app.domain.log.append import Append, Appended, IdempotencyKey, KeyId, StoredKey, TopicVersionChanged
from app.domain.log.topic import TopicConfig, TopicInfo
from app.domain.metrics.node_metrics import TopicTable
from app.errors.broker_error import BrokerError
from app.errors.log import IdempotencyKeyReused, UnknownTopicOrPartition
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.groups import groups, members
from app.storage.groups.members import MemberSnapshot
from app.storage.groups.offsets import Commit
from app.storage.log import idempotency, topics
from app.storage.log.appends import append_all

_ATTEMPTS = 5
_TRANSACTIONS_SCOPE = 0
"""Stored with the Idempotency-Keys of transactions in place of a topic id."""


class TransactionRequest(NamedTuple):
    """Appends and commits of one transaction. Each commit has a `from_offset`."""

    produce: Sequence[ProduceRequest]
    commit: Sequence[tuple[Committer, Sequence[OffsetCommit]]]
    key: IdempotencyKey | None


class TransactionResult(NamedTuple):
    """Partitions and offsets of the appended records, per entry of `produce` in request order."""

    produced: list[Appended]
    duplicate: bool


class _OffsetCommits(NamedTuple):
    """Commits of one committer.

    Attributes:
        request_index: Its index in the request.
    """

    request_index: int
    committer: Committer
    commits: Sequence[Commit]

    @property
    def lock_order(self) -> tuple[str, str]:
        """The order of locks: groups by name, in each the group before its members."""
        return self.committer.group, self.committer.member_id or ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Appended]).decode


class Transactions:
    """Runs transactions.

    Args:
        clock_ms: Wall clock in milliseconds, for the timestamps of records.
        max_groups: Most groups that may exist.
        counts: Counts what is appended, by topic; None counts nothing.
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
        counts: TopicTable | None = None,
    ) -> None:
        self._storage = storage
        self._counts = counts
        self._topics = topics
        self._signals = signals
        self._producer = producer
        self._offsets = offsets
        self._clock_ms = clock_ms
        self._max_groups = max_groups

    async def run(self, request: TransactionRequest) -> TransactionResult:
        """Append all records and commit all offsets, or write nothing.

        Raises:
            BrokerError: One part is refused; the error has its index. Nothing is written.
        """
        key = request.key
        if key is not None and (stored := await self._storage.read(_find_result, key, self._clock_ms())):
            return stored
        if self._storage.full:
            raise self._storage.disk_full()
        for _ in range(_ATTEMPTS):
            appends = await self._prepare_appends(request)
            commits = await self._resolve_commits(request)
            try:
                result = await self._storage.write(
                    _run, appends, commits, key, self._clock_ms(), self._max_groups, self._topics.limits
                )
            except StaleTopic:
                self._drop_topics(request)
                continue
            if not result.duplicate:
                self._announce(appends)
            return result
        raise topic_changes_too_often()

    async def _prepare_appends(self, request: TransactionRequest) -> list[Append]:
        appends = []
        for index, produce in enumerate(request.produce):
            with _adding_index("produce", index):
                appends.append(await self._producer.prepare(produce))
        return appends

    async def _resolve_commits(self, request: TransactionRequest) -> list[_OffsetCommits]:
        resolved = []
        for index, (committer, commits) in enumerate(request.commit):
            with _adding_index("commit", index):
                resolved.append(_OffsetCommits(index, committer, await self._offsets.resolve(commits)))
        return resolved

    def _drop_topics(self, request: TransactionRequest) -> None:
        self._topics.drop({produce.topic for produce in request.produce})
        for _, commits in request.commit:
            self._offsets.drop_topics(commits)

    def _announce(self, appends: Sequence[Append]) -> None:
        if self._counts is not None:
            for append in appends:
                size_bytes = sum(record.size_bytes for record in append.records)
                self._counts.add(append.topic, len(append.records), size_bytes)
        existing = [append for append in appends if append.topic_id != DRAFT]
        self._signals.announce({partition_id for append in existing for partition_id in append.partition_ids_written})


@contextmanager
def _adding_index(part: Literal["produce", "commit"], index: int) -> Iterator[None]:
    """Add the part of the transaction and its index to an error."""
    try:
        yield
    except BrokerError as error:
        if error.retriable:  # it concerns the database, not a part
            raise
        raise type(error)(f"{part} {index}: {error.detail}", **error.facts | {part: index}) from error


def _run(
    tx: Tx,
    appends: Sequence[Append],
    commits: Sequence[_OffsetCommits],
    key: IdempotencyKey | None,
    now_ms: int,
    max_groups: int,
    limits: InstallationLimits,
) -> TransactionResult:
    """Run a transaction. Locks: groups and members, then the Idempotency-Key, then partitions."""
    ordered = sorted(commits, key=lambda commit: commit.lock_order)
    locked = [(commit, _lock(tx, commit.committer, max_groups)) for commit in ordered]
    if key is not None and (stored := _claim(tx, key, now_ms)) is not None:
        return stored
    for commit, found in locked:
        with _adding_index("commit", commit.request_index):
            _commit(tx, commit, found)
    produced = _append(tx, _create_topics(tx, appends, now_ms, limits), now_ms)
    if key is not None:
        key_id = (_TRANSACTIONS_SCOPE, key.key_hash)
        idempotency.save_results(tx, [key_id], {key_id: StoredKey(key.fingerprint, _encode(produced))}, now_ms)
    return TransactionResult(produced, duplicate=False)


def _lock(tx: Tx, committer: Committer, max_groups: int) -> Group | MemberSnapshot | None:
    if committer.member_id is None:
        return load_or_create(tx, committer.group, max_groups)
    return members.load(tx, committer.group, committer.member_id)


def _commit(tx: Tx, commit: _OffsetCommits, found: Group | MemberSnapshot | None) -> None:
    committer, holder = commit.committer, None
    if found is None:
        raise member_not_found(tx, committer.group, committer.member_id or "")
    if isinstance(found, Group):
        refuse_members(found)
        groups.touch(tx, found, clock.read(tx))
    else:
        holder = CommittingMember(found.member, committer.member_epoch)
    commit_offsets(tx, found.group_id, holder, commit.commits, repeats=False)


def _find_result(tx: Tx, key: IdempotencyKey, now_ms: int) -> TransactionResult | None:
    """Return the stored result of a key, or None if the key is unused.

    Raises:
        IdempotencyKeyReused: The key was used for another transaction.
    """
    return _result(key, idempotency.find(tx, [(_TRANSACTIONS_SCOPE, key.key_hash)], now_ms))


def _claim(tx: Tx, key: IdempotencyKey, now_ms: int) -> TransactionResult | None:
    """Lock a key and return its stored result, or None if the key is unused.

    Raises:
        IdempotencyKeyReused: The key was used for another transaction.
    """
    return _result(key, idempotency.claim(tx, [(_TRANSACTIONS_SCOPE, key.key_hash)], now_ms))


def _result(key: IdempotencyKey, used: Mapping[KeyId, StoredKey]) -> TransactionResult | None:
    stored = used.get((_TRANSACTIONS_SCOPE, key.key_hash))
    if stored is None:
        return None
    if stored.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused("this Idempotency-Key was used for another transaction; use a new key")
    return TransactionResult(_decode(stored.result), duplicate=True)


def _create_topics(tx: Tx, appends: Sequence[Append], now_ms: int, limits: InstallationLimits) -> list[Append]:
    """Create the topics that are missing in the order of their names, and return the appends with their ids."""
    missing = {append.topic: len(append.partition_ids) for append in appends if append.topic_id == DRAFT}
    created: dict[str, TopicInfo] = {}
    for name, partitions in sorted(missing.items()):
        if not topics.create(tx, name, partitions, {}, now_ms):
            raise StaleTopic
        if (found := topics.find(tx, name, TopicConfig())) is not None:
            created[name] = found.info
    if created:
        topics.check_limits(tx, limits)
    return [_with_ids(append, created[append.topic]) if append.topic_id == DRAFT else append for append in appends]


def _with_ids(append: Append, topic: TopicInfo) -> Append:
    return replace(append, topic_id=topic.topic_id, version=topic.version, partition_ids=topic.partition_ids)


def _append(tx: Tx, appends: Sequence[Append], now_ms: int) -> list[Appended]:
    produced = []
    for index, outcome in enumerate(append_all(tx, appends, now_ms) if appends else ()):
        if isinstance(outcome, TopicVersionChanged | UnknownTopicOrPartition):
            raise StaleTopic
        with _adding_index("produce", index):
            if isinstance(outcome, BrokerError):
                raise outcome
            produced.append(outcome.appended)
    return produced
