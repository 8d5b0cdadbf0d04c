"""One consumer for each documented way to consume, exactly by the documented rules.

A request without an answer is sent again. A consumer can be killed at any moment by cancelling its task.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e.support.raw_http import Answer, AnswerLost
from tests.waiting import pause

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from tests.e2e.support.lossy_client import LossyClient
    from tests.e2e.support.ownership_journal import OwnershipJournal

TOPIC = "flights"
GROUP = "counters"
COUNTS = "counts"
NOT_A_MEMBER = {"UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH"}
WORK_S = 0.002
HEARTBEAT_INTERVAL_S = 0.1
LATE_POLL_S = 0.2

Record = dict[str, Any]


@dataclass
class Consumer(ABC):
    """A member of the group.

    Attributes:
        member_id: The member; the successor of a killed consumer may take the same.
        holder: The name of this run in the journal.
    """

    member_id: str
    holder: str
    client: LossyClient
    journal: OwnershipJournal
    rng: random.Random
    session_ms: int
    epoch: int = -1
    until: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Consume until cancelled."""
        try:
            await self.consume()
        finally:
            self.journal.release(self.holder)

    @abstractmethod
    async def consume(self) -> None: ...

    @property
    def path(self) -> str:
        return f"/v1/groups/{GROUP}/members/{self.member_id}"

    async def join(self) -> None:
        """Join without owned partitions, until that is answered."""
        self.journal.release(self.holder)
        request = {"topics": [TOPIC], "member_id": self.member_id, "session_timeout_ms": self.session_ms}
        while True:
            sent = asyncio.get_running_loop().time()
            try:
                answer = await self.client.call("POST", f"/v1/groups/{GROUP}/members", request)
            except AnswerLost:
                continue
            assert answer.status in {200, 201}, answer
            self.accept(answer, sent)
            return

    async def leave(self) -> None:
        """Leave after the work has ended; the repeat of a leave finds no member."""
        answer = await self.client.call_until_answered("DELETE", self.path)
        if answer.status != 204:
            self.refused(answer, "UNKNOWN_MEMBER_ID")

    def accept(self, answer: Answer, sent: float) -> set[int]:
        """Take the epoch and the assignment of an answer, and return the assigned partitions."""
        self.epoch = answer.document["member_epoch"]
        self.until = sent + self.session_ms / 1000 * 2 / 3
        assigned = assigned_in(answer)
        self.journal.claim(self.holder, assigned, self.until)
        return assigned

    async def process(self, records: list[Record]) -> dict[int, int]:
        """Process records as long as their partition is owned; return the next offset of each partition."""
        next_offsets: dict[int, int] = {}
        for record in records:
            if self.rng.random() < 0.1:
                await pause(self.rng.uniform(0, WORK_S))
            if not self.journal.holds(self.holder, record["partition"]):
                break
            self.journal.process(self.holder, record)
            next_offsets[record["partition"]] = record["offset"] + 1
        return next_offsets

    def refused(self, answer: Answer, *expected: str) -> str:
        """Count an error, which must have one of the expected codes, and return its code."""
        assert answer.status == 409, answer
        assert answer.code in expected, answer
        self.errors[answer.code] += 1
        return answer.code


class PollingConsumer(Consumer):
    """Polls, and commits with the next poll."""

    async def consume(self) -> None:
        await self.join()
        commit: list[dict[str, Any]] = []
        while True:
            page = await self.poll(commit)
            if page is None:
                commit = []
                continue
            commit = commit_of(page, await self.process(page["records"]))

    async def poll(self, commit: list[dict[str, Any]]) -> Record | None:
        """Poll until that is answered; return None after an error, with the consumer a member again."""
        request = {
            "member_epoch": self.epoch,
            "commit": commit,
            "max_records": self.rng.randint(1, 60),
            "max_wait_ms": self.rng.randint(0, 400),
        }
        self.journal.release(self.holder)  # a poll without `owned` releases every revoked partition
        while True:
            sent, floor = asyncio.get_running_loop().time(), dict(self.journal.committed)
            try:
                answer = await self.client.call("POST", f"{self.path}/poll", request)
            except AnswerLost:
                continue
            break
        if answer.status != 200:
            if self.refused(answer, "STALE_MEMBER_EPOCH", *NOT_A_MEMBER) in NOT_A_MEMBER:
                await self.join()
            else:
                self.epoch = answer.document["member_epoch"]
            return None
        for one in commit:
            self.journal.note_committed(one["partition"], one["offset"])
        self.accept(answer, sent)
        check_page(self.journal, answer, floor)
        return answer.document


class AutoCommitConsumer(Consumer):
    """Repeats one request with `topics` and `auto_commit`; the latter is false in the request after a lost answer."""

    async def consume(self) -> None:
        auto_commit, lost = False, True  # the predecessor may have been killed in the middle of a poll
        while True:
            request = {
                "topics": [TOPIC],
                "session_timeout_ms": self.session_ms,
                "auto_commit": auto_commit,
                "max_records": self.rng.randint(1, 60),
                "max_wait_ms": self.rng.randint(0, 400),
            }
            self.journal.release(self.holder)
            sent, floor = asyncio.get_running_loop().time(), dict(self.journal.committed)
            auto_commit = False
            try:
                answer = await self.client.call("POST", f"{self.path}/poll", request)
            except AnswerLost:
                # A poll that runs after its successor commits the page of the successor: give the late poll time.
                await pause(LATE_POLL_S)
                lost = True
                continue
            if answer.status != 200:
                # The poll with the lost answer may still run, between two steps of this one.
                self.refused(answer, *NOT_A_MEMBER, *(["CONCURRENT_REQUEST"] if lost else []))
                continue
            lost = False
            self.accept(answer, sent)
            check_page(self.journal, answer, floor)
            records = answer.document["records"]
            next_offsets = await self.process(records)
            auto_commit = all(next_offsets.get(record["partition"], -1) > record["offset"] for record in records)


class HeartbeatConsumer(Consumer):
    """Sends heartbeats with its owned partitions, fetches each partition, and commits with separate requests."""

    async def consume(self) -> None:
        await self.join()
        offsets: dict[int, int] = {}
        while True:
            assigned = await self.heartbeat(offsets)
            if assigned is None:
                offsets = {}
                await self.join()
                continue
            offsets = {partition: offset for partition, offset in offsets.items() if partition in assigned}
            if gained := assigned - offsets.keys():
                offsets |= await self.committed_offsets(gained)
            for partition in sorted(offsets):
                offset = await self.fetch_and_commit(partition, offsets[partition])
                if offset is None:
                    del offsets[partition]
                else:
                    offsets[partition] = offset
            await pause(self.rng.uniform(0, HEARTBEAT_INTERVAL_S))

    async def heartbeat(self, owned: Mapping[int, int]) -> set[int] | None:
        """Send a heartbeat until it is answered; return the assignment, or None without a membership."""
        request = {"member_epoch": self.epoch, "owned": [{"topic": TOPIC, "partitions": sorted(owned)}]}
        while True:
            sent = asyncio.get_running_loop().time()
            try:
                answer = await self.client.call("POST", f"{self.path}/heartbeat", request)
            except AnswerLost:
                continue
            if answer.status == 200:
                return self.accept(answer, sent)
            self.refused(answer, *NOT_A_MEMBER)
            return None

    async def committed_offsets(self, partitions: set[int]) -> dict[int, int]:
        floor = dict(self.journal.committed)
        answer = await self.client.call_until_answered("GET", f"/v1/groups/{GROUP}/offsets")
        found = {one["partition"]: one["committed_offset"] for one in answer.document["offsets"]}
        for partition in partitions:
            assert found[partition] >= floor.get(partition, 0), (partition, found, floor)
        return {partition: found[partition] for partition in partitions}

    async def fetch_and_commit(self, partition: int, offset: int) -> int | None:
        """Fetch, process and commit some records; return the next offset, or None if the commit is refused."""
        query = f"offset={offset}&max_records={self.rng.randint(1, 40)}"
        page = await self.client.call_until_answered(
            "GET", f"/v1/topics/{TOPIC}/partitions/{partition}/records?{query}"
        )
        assert page.status == 200, page
        next_offsets = await self.process(page.document["records"])
        if not next_offsets:
            return offset if self.journal.holds(self.holder, partition) else None
        one = {"topic": TOPIC, "partition": partition, "from_offset": offset, "offset": next_offsets[partition]}
        commit = {"member_id": self.member_id, "member_epoch": self.epoch, "offsets": [one]}
        answer = await self.client.call_until_answered("POST", f"/v1/groups/{GROUP}/offsets", commit)
        if answer.status != 200:
            self.refused(answer, "STALE_MEMBER_EPOCH", *NOT_A_MEMBER)
            return None
        self.journal.note_committed(partition, next_offsets[partition])
        return next_offsets[partition]


class TransactionalConsumer(PollingConsumer):
    """Counts flights by origin; writes counts and offsets in one transaction, with an Idempotency-Key or without."""

    async def consume(self) -> None:
        await self.join()
        number = 0
        while True:
            page = await self.poll([])
            if page is None:
                continue
            next_offsets = await self.process(page["records"])
            if next_offsets:
                number += 1
                key = f"{self.holder}.{number}" if self.rng.random() < 0.5 else None
                await self.commit_transaction(transaction_of(self, page, next_offsets), key)

    async def commit_transaction(self, request: Record, key: str | None) -> None:
        """Send a transaction until it is answered."""
        headers = {} if key is None else {"Idempotency-Key": key}
        first = True
        while True:
            try:
                answer = await self.client.call("POST", "/v1/transactions", request, headers)
            except AnswerLost:
                first = False
                continue
            break
        offsets = request["commit"][0]["offsets"]
        if answer.status in {200, 201}:
            assert answer.document["duplicate"] == (answer.status == 200)
            assert answer.status == 201 or (key is not None and not first), answer
            for one in offsets:
                self.journal.note_committed(one["partition"], one["offset"])
            return
        # Only the repeat of a transaction without a key may conflict: its first attempt was committed.
        expected = ["STALE_MEMBER_EPOCH", *NOT_A_MEMBER] + (["OFFSET_CONFLICT"] if key is None and not first else [])
        code = self.refused(answer, *expected)
        if code == "OFFSET_CONFLICT":
            conflict = offsets[answer.document["errors"][0]["index"]]
            assert answer.document["committed_offset"] == conflict["offset"], answer
        if code in NOT_A_MEMBER:
            await self.join()


def transaction_of(consumer: Consumer, page: Record, next_offsets: Mapping[int, int]) -> Record:
    """Return a transaction with the counts of a page by partition and origin, and the processed offsets."""
    commit = commit_of(page, next_offsets)
    records = []
    for one in commit:
        span = one["from_offset"], one["offset"]
        of_partition = [record for record in page["records"] if record["partition"] == one["partition"]]
        counts = Counter(record["key"] for record in of_partition if record["offset"] < one["offset"])
        records += [
            {"key": origin, "value": {"count": count, "partition": one["partition"], "span": span}}
            for origin, count in counts.items()
        ]
    member = {"group": GROUP, "member_id": consumer.member_id, "member_epoch": consumer.epoch}
    return {"produce": [{"topic": COUNTS, "records": records}], "commit": [member | {"offsets": commit}]}


def commit_of(page: Record, next_offsets: Mapping[int, int]) -> list[Record]:
    """Return the offsets to commit for the processed part of a page."""
    return [
        one | {"offset": next_offsets[one["partition"]]}
        for one in page["next_offsets"]
        if one["partition"] in next_offsets
    ]


def check_page(journal: OwnershipJournal, answer: Answer, floor: Mapping[int, int]) -> None:
    """Assert that the records and the `next_offsets` of a poll agree with each other and with the journal."""
    records = answer.document["records"]
    assigned = assigned_in(answer)
    journal.check_page(records, floor)
    ends = {record["partition"]: record["offset"] + 1 for record in records}
    firsts = {record["partition"]: record["offset"] for record in reversed(records)}
    for one in answer.document["next_offsets"]:
        partition = one["partition"]
        assert partition in assigned, answer
        assert (one["from_offset"], one["offset"]) == (firsts[partition], ends[partition]), answer
        journal.note_committed(partition, one["from_offset"])
    assert ends.keys() == {one["partition"] for one in answer.document["next_offsets"]}


def assigned_in(answer: Answer) -> set[int]:
    """Return the partitions that an answer assigns."""
    return {partition for one in answer.document["assignment"] for partition in one["partitions"]}
