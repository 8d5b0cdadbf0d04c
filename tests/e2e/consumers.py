"""Consumers as people write them, one for each way to consume; each follows the documented rules to the letter.

What has no answer is sent again. A consumer may be killed at any moment, by cancelling its task.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e.lossy import Answer, Line, Lost

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from tests.e2e.journal import Journal

TOPIC = "flights"
GROUP = "counters"
COUNTS = "counts"
GONE = {"UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH"}
WORK_S = 0.002
BEAT_S = 0.1
AGAIN_S = 0.2

Record = dict[str, Any]


@dataclass
class Consumer(ABC):
    """A member of the group.

    Attributes:
        member_id: Its name in the group; one that was killed may come back under the same.
        holder: The name of this life, for the journal.
    """

    member_id: str
    holder: str
    line: Line
    journal: Journal
    rng: random.Random
    session_ms: int
    epoch: int = -1
    until: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Consume for ever; to be cancelled."""
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
        """Join, holding nothing, until that is answered."""
        self.journal.release(self.holder)
        wish = {"topics": [TOPIC], "member_id": self.member_id, "session_timeout_ms": self.session_ms}
        while True:
            sent = asyncio.get_running_loop().time()
            try:
                answer = await self.line.call("POST", f"/v1/groups/{GROUP}/members", wish)
            except Lost:
                continue
            assert answer.status in {200, 201}, answer
            self.stand(answer, sent)
            return

    async def leave(self) -> None:
        """Leave after the work has ended; a repeat of what was done finds no member."""
        answer = await self.line.insist("DELETE", self.path)
        if answer.status != 204:
            self.refused(answer, "UNKNOWN_MEMBER_ID")

    def stand(self, answer: Answer, sent: float) -> set[int]:
        """Believe what an answer says of the assignment, and return it."""
        self.epoch = answer.document["member_epoch"]
        self.until = sent + self.session_ms / 1000 * 2 / 3
        assigned = assigned_in(answer)
        self.journal.claim(self.holder, assigned, self.until)
        return assigned

    async def work(self, records: list[Record]) -> dict[int, int]:
        """Process records while they are its own; return the next offset of each partition."""
        nexts: dict[int, int] = {}
        for record in records:
            if self.rng.random() < 0.1:
                await asyncio.sleep(self.rng.uniform(0, WORK_S))  # the work
            if not self.journal.holds(self.holder, record["partition"]):
                break
            self.journal.process(self.holder, record)
            nexts[record["partition"]] = record["offset"] + 1
        return nexts

    def refused(self, answer: Answer, *expected: str) -> str:
        """Count a refusal, which must be one of those expected, and return its code."""
        assert answer.status == 409, answer
        assert answer.code in expected, answer
        self.refusals[answer.code] += 1
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
            nexts = await self.work(page["records"])
            commit = commit_of(page, nexts)

    async def poll(self, commit: list[dict[str, Any]]) -> Record | None:
        """Poll until that is answered; None after a refusal, joined again if need be."""
        document = {
            "member_epoch": self.epoch,
            "commit": commit,
            "max_records": self.rng.randint(1, 60),
            "max_wait_ms": self.rng.randint(0, 400),
        }
        self.journal.release(self.holder)  # without `owned` it says that nothing is in work
        while True:
            sent, floor = asyncio.get_running_loop().time(), dict(self.journal.committed)
            try:
                answer = await self.line.call("POST", f"{self.path}/poll", document)
            except Lost:
                continue
            break
        if answer.status != 200:
            if self.refused(answer, "STALE_MEMBER_EPOCH", *GONE) in GONE:
                await self.join()
            else:
                self.epoch = answer.document["member_epoch"]
            return None
        for one in commit:
            self.journal.note_committed(one["partition"], one["offset"])
        self.stand(answer, sent)
        check_page(self.journal, answer, floor)
        return answer.document


class AutoConsumer(Consumer):
    """One line, repeated: `topics` and `auto_commit`, which is false once after an answer was lost."""

    async def consume(self) -> None:
        sure, lost = False, True  # who had the name before may have been killed in the middle of a poll
        while True:
            document = {
                "topics": [TOPIC],
                "session_timeout_ms": self.session_ms,
                "auto_commit": sure,
                "max_records": self.rng.randint(1, 60),
                "max_wait_ms": self.rng.randint(0, 400),
            }
            self.journal.release(self.holder)
            sent, floor = asyncio.get_running_loop().time(), dict(self.journal.committed)
            sure = False
            try:
                answer = await self.line.call("POST", f"{self.path}/poll", document)
            except Lost:
                # A poll that is executed after the next one commits what that returned; its sender gives it time.
                await asyncio.sleep(AGAIN_S)
                lost = True
                continue
            if answer.status != 200:
                # The poll whose answer was lost may still have been on its way, and begun between this one's steps.
                self.refused(answer, *GONE, *(["CONCURRENT_REQUEST"] if lost else []))
                continue
            lost = False
            self.stand(answer, sent)
            check_page(self.journal, answer, floor)
            records = answer.document["records"]
            nexts = await self.work(records)
            sure = all(nexts.get(record["partition"], -1) > record["offset"] for record in records)


class BeatingConsumer(Consumer):
    """Beats with what it owns, fetches partition by partition, and commits by itself."""

    async def consume(self) -> None:
        await self.join()
        offsets: dict[int, int] = {}
        while True:
            assigned = await self.beat(offsets)
            if assigned is None:
                offsets = {}
                await self.join()
                continue
            offsets = {partition: offset for partition, offset in offsets.items() if partition in assigned}
            if gained := assigned - offsets.keys():
                offsets |= await self.committed(gained)
            for partition in sorted(offsets):
                offset = await self.read(partition, offsets[partition])
                if offset is None:
                    del offsets[partition]
                else:
                    offsets[partition] = offset
            await asyncio.sleep(self.rng.uniform(0, BEAT_S))  # a beat's interval

    async def beat(self, owned: Mapping[int, int]) -> set[int] | None:
        """Beat until that is answered; return the assignment, or None when it is no member any more."""
        document = {"member_epoch": self.epoch, "owned": [{"topic": TOPIC, "partitions": sorted(owned)}]}
        while True:
            sent = asyncio.get_running_loop().time()
            try:
                answer = await self.line.call("POST", f"{self.path}/heartbeat", document)
            except Lost:
                continue
            if answer.status == 200:
                return self.stand(answer, sent)
            self.refused(answer, *GONE)
            return None

    async def committed(self, partitions: set[int]) -> dict[int, int]:
        floor = dict(self.journal.committed)
        answer = await self.line.insist("GET", f"/v1/groups/{GROUP}/offsets")
        found = {one["partition"]: one["committed_offset"] for one in answer.document["offsets"]}
        for partition in partitions:
            assert found[partition] >= floor.get(partition, 0), (partition, found, floor)
        return {partition: found[partition] for partition in partitions}

    async def read(self, partition: int, offset: int) -> int | None:
        """Read, process and commit some records; return the next offset, or None if it may not commit."""
        query = f"offset={offset}&max_records={self.rng.randint(1, 40)}"
        page = await self.line.insist("GET", f"/v1/topics/{TOPIC}/partitions/{partition}/records?{query}")
        assert page.status == 200, page
        nexts = await self.work(page.document["records"])
        if not nexts:
            return offset if self.journal.holds(self.holder, partition) else None
        one = {"topic": TOPIC, "partition": partition, "from_offset": offset, "offset": nexts[partition]}
        document = {"member_id": self.member_id, "member_epoch": self.epoch, "offsets": [one]}
        answer = await self.line.insist("POST", f"/v1/groups/{GROUP}/offsets", document)
        if answer.status != 200:
            self.refused(answer, "STALE_MEMBER_EPOCH", *GONE)
            return None
        self.journal.note_committed(partition, nexts[partition])
        return nexts[partition]


class CountingConsumer(PollingConsumer):
    """Counts flights by origin, and writes the counts and its offsets in one transaction, half of them with a key."""

    async def consume(self) -> None:
        await self.join()
        number = 0
        while True:
            page = await self.poll([])
            if page is None:
                continue
            nexts = await self.work(page["records"])
            if nexts:
                number += 1
                key = f"{self.holder}.{number}" if self.rng.random() < 0.5 else None
                await self.transact(transaction_of(self, page, nexts), key)

    async def transact(self, document: Record, key: str | None) -> None:
        """Send a transaction until it is answered."""
        headers = {} if key is None else {"Idempotency-Key": key}
        first = True
        while True:
            try:
                answer = await self.line.call("POST", "/v1/transactions", document, headers)
            except Lost:
                first = False
                continue
            break
        offsets = document["commit"][0]["offsets"]
        if answer.status in {200, 201}:
            assert answer.document["duplicate"] == (answer.status == 200)
            assert answer.status == 201 or (key is not None and not first), answer
            for one in offsets:
                self.journal.note_committed(one["partition"], one["offset"])
            return
        # A repeat that counts for nothing is the only conflict there may be: the first was done.
        expected = ["STALE_MEMBER_EPOCH", *GONE] + (["OFFSET_CONFLICT"] if key is None and not first else [])
        code = self.refused(answer, *expected)
        if code == "OFFSET_CONFLICT":
            conflict = offsets[answer.document["errors"][0]["index"]]
            assert answer.document["committed_offset"] == conflict["offset"], answer
        if code in GONE:
            await self.join()


def transaction_of(consumer: Consumer, page: Record, nexts: Mapping[int, int]) -> Record:
    """Return the counts of a page by partition and origin, with the offsets that they come from."""
    commit = commit_of(page, nexts)
    records = []
    for one in commit:
        span = one["from_offset"], one["offset"]
        mine = [record for record in page["records"] if record["partition"] == one["partition"]]
        counts = Counter(record["key"] for record in mine if record["offset"] < one["offset"])
        records += [
            {"key": origin, "value": {"count": count, "partition": one["partition"], "span": span}}
            for origin, count in counts.items()
        ]
    members = {"group": GROUP, "member_id": consumer.member_id, "member_epoch": consumer.epoch}
    return {"produce": [{"topic": COUNTS, "records": records}], "commit": [members | {"offsets": commit}]}


def commit_of(page: Record, nexts: Mapping[int, int]) -> list[Record]:
    """Return what to commit of a page of which so much was processed."""
    return [one | {"offset": nexts[one["partition"]]} for one in page["next_offsets"] if one["partition"] in nexts]


def check_page(journal: Journal, answer: Answer, floor: Mapping[int, int]) -> None:
    """Check the records of a poll and the offsets beside them."""
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
