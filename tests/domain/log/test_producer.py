"""The idempotent producer against a model of all acknowledged requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.domain.log.append import Accepted, Append, AppendBatch, AppendOutcome, PartitionEnd, ProducerId
from app.domain.log.producer import ProducerStamp, ProducerState
from app.domain.log.record import Record
from app.errors.log import DuplicateSequenceNumber, InvalidProducerEpoch, OutOfOrderSequenceNumber, SequenceReused

PRODUCERS = st.sampled_from(["checkout", "billing"])
TOPICS = st.sampled_from([1, 2])
NOW_MS = 1_700_000_000_000


@dataclass
class Sent:
    fingerprint: bytes
    offset: int


@dataclass
class Model:
    """Acknowledged requests: per topic in order, and per producer, topic and epoch by sequence."""

    logs: dict[int, list[bytes]] = field(default_factory=lambda: {1: [], 2: []})
    sent: dict[tuple[str, int, int], list[Sent]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    def of(self, producer: str, topic: int, epoch: int) -> list[Sent]:
        return self.sent.setdefault((producer, topic, epoch), [])


class IdempotentProducer(RuleBasedStateMachine):
    """Sends any request at any time; hypothesis decides when a batch ends and its changes are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.ends = {topic: PartitionEnd(topic, 1, 0, 0, 0, first_id=topic * 1000) for topic in (1, 2)}
        self.states: dict[ProducerId, ProducerState] = {}
        self.epochs: dict[str, int] = {}
        self.rows: list[tuple[int, bytes | None]] = []
        self.begin()

    def begin(self) -> None:
        self.batch = AppendBatch(self.ends, {}, self.epochs, self.states, NOW_MS)

    @rule()
    def commit(self) -> None:
        self.rows += [(row[0], row[4]) for row in self.batch.rows]
        self.states |= self.batch.producers_written
        for (producer, _), state in self.batch.producers_written.items():
            self.epochs[producer] = max(state.epoch, self.epochs.get(producer, -1))
        self.begin()

    @rule(producer=PRODUCERS)
    def fence(self, producer: str) -> None:
        self.commit()
        self.epochs[producer] = self.model.epochs[producer] = self.model.epochs.get(producer, -1) + 1
        self.begin()

    @rule(
        producer=PRODUCERS,
        topic=TOPICS,
        epoch_ahead=st.sampled_from([0, 0, 0, 0, -1, 1]),
        sequence_ahead=st.sampled_from([0, 0, 0, 0, -1, -2, -5, -6, 1, 3]),
        same=st.sampled_from([True, True, False]),
    )
    def send(self, producer: str, topic: int, epoch_ahead: int, sequence_ahead: int, same: bool) -> None:
        highest = self.model.epochs.get(producer, -1)
        epoch = max(0, highest + epoch_ahead)
        sent = self.model.of(producer, topic, epoch)
        sequence = max(0, len(sent) + sequence_ahead)
        body = f"{producer} {epoch} {sequence}".encode()
        fingerprint = body if same else b"another body"

        outcome = self.apply(topic, ProducerStamp(producer, epoch, sequence, fingerprint), body)

        if epoch < highest:
            assert isinstance(outcome, InvalidProducerEpoch)
            assert outcome.facts == {"producer_epoch": highest}
        elif sequence > len(sent):
            assert isinstance(outcome, OutOfOrderSequenceNumber)
            assert outcome.facts == {"expected_sequence": len(sent)}
        elif sequence == len(sent):
            assert isinstance(outcome, Accepted)
            assert not outcome.duplicate
            assert outcome.appended.offsets == [len(self.model.logs[topic])]
            sent.append(Sent(fingerprint, len(self.model.logs[topic])))
            self.model.logs[topic].append(body)
            self.model.epochs[producer] = epoch
        elif sequence < len(sent) - 5:
            assert isinstance(outcome, DuplicateSequenceNumber)
            assert outcome.facts == {"expected_sequence": len(sent)}
        elif sent[sequence].fingerprint != fingerprint:
            assert isinstance(outcome, SequenceReused)
        else:
            assert isinstance(outcome, Accepted)
            assert outcome.duplicate
            assert outcome.appended.offsets == [sent[sequence].offset]
            assert outcome.appended.timestamps_ms == [NOW_MS]

    def apply(self, topic: int, stamp: ProducerStamp, body: bytes) -> AppendOutcome:
        record = Record(0, -1, None, body, None, 0)
        return self.batch.apply(Append(topic, f"t{topic}", 1, (topic,), [record], [0], stamp=stamp))

    @invariant()
    def every_acknowledged_request_is_in_the_log_once(self) -> None:
        rows = self.rows + [(row[0], row[4]) for row in self.batch.rows]
        for topic, log in self.model.logs.items():
            assert [row for row in rows if row[0] // 1000 == topic] == list(enumerate(log, topic * 1000))


IdempotentProducer.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_every_acknowledged_request_is_appended_exactly_once = IdempotentProducer.TestCase
