"""Each kind of inconsistency, planted in a database with rows in every table, is found and named."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import create_engine, event, text

from app.storage.db.faults import Fault
from app.storage.db.opening import Snapshot, open_snapshot
from app.storage.db.tables import OFFSET_BITS
from app.storage.verification import verification
from app.storage.verification.report import LISTED, Report
from tests.conftest import ENGINES
from tests.e2e.operations.full_database import load_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from app.storage.verification.report import Kind

BASE = f"(SELECT partition_id * {1 << OFFSET_BITS} FROM partitions p JOIN topics t USING (topic_id) WHERE t.name = "
ORDERS_0 = f"{BASE}'orders' AND p.partition = 0)"
ORDERS_1 = f"{BASE}'orders' AND p.partition = 1)"
PRICES_0 = f"{BASE}'prices' AND p.partition = 0)"
OF_ORDERS = "topic_id = (SELECT topic_id FROM topics WHERE name = 'orders')"
OF_JOBS = "queue_id = (SELECT queue_id FROM queues WHERE name = 'jobs')"
LARGE = 1_000_000


class Planted(NamedTuple):
    """A change to the database, and the kinds of inconsistency that it must show."""

    sql: str
    kinds: tuple[Kind, ...]
    subject: str
    garbage: bytes | None = None


PLANTED = {
    "a record is missing": Planted(
        f"DELETE FROM records WHERE record_id = {ORDERS_1} + 3", ("OFFSETS", "SIZES"), "orders/1"
    ),
    "the first record is missing": Planted(
        f"DELETE FROM records WHERE record_id = {ORDERS_1}", ("OFFSETS", "SIZES"), "orders/1"
    ),
    "acknowledged records at the end are missing": Planted(
        f"DELETE FROM records WHERE record_id BETWEEN {ORDERS_1} + 3 AND {ORDERS_1} + {LARGE}",
        ("ABOVE_END",),
        "Idempotency-Key",
    ),
    "requests of a producer are missing": Planted(
        f"DELETE FROM records WHERE record_id BETWEEN {ORDERS_0} + 4 AND {ORDERS_0} + {LARGE}",
        ("ABOVE_END",),
        "producer shop on orders, sequence",
    ),
    "a size is wrong": Planted(
        f"UPDATE records SET start_bytes = start_bytes + 1 WHERE record_id = {ORDERS_1} + 3", ("SIZES",), "orders/1"
    ),
    "the bytes before the log are wrong": Planted(
        f"UPDATE partitions SET start_bytes = start_bytes + 1 WHERE {OF_ORDERS}", ("SIZES",), "orders/1"
    ),
    "the compacted bytes are wrong": Planted(
        "UPDATE partitions SET compacted_bytes = compacted_bytes + 1", ("SIZES",), "prices/0"
    ),
    "a largest timestamp is too small": Planted(
        f"UPDATE records SET max_timestamp_ms = 5 WHERE record_id = {ORDERS_1} + 3", ("TIMES",), "orders/1"
    ),
    "a largest timestamp is too large": Planted(
        f"UPDATE records SET max_timestamp_ms = max_timestamp_ms + 9 WHERE record_id = {ORDERS_1} + 3",
        ("TIMES",),
        "orders/1",
    ),
    "rows before the log stay": Planted("DELETE FROM purges", ("DELETED",), "orders/0"),
    "rows of the log are to be deleted": Planted(
        "UPDATE purges SET before_offset = before_offset + 2", ("DELETED",), "orders/0"
    ),
    "a topic is missing": Planted("DELETE FROM topics WHERE name = 'orders'", ("ORPHAN",), "topic id"),
    "a partition is missing": Planted(
        f"DELETE FROM partitions WHERE {OF_ORDERS} AND partition = 0", ("MISSING", "ORPHAN"), "topic orders"
    ),
    "a key of compaction is missing": Planted(
        f"DELETE FROM compacted_keys WHERE partition_id = {PRICES_0} / {1 << OFFSET_BITS}", ("COMPACTION",), "prices/0"
    ),
    "a key of compaction is that of another record": Planted(
        f"UPDATE compacted_keys SET key_hash = :garbage WHERE partition_id = {PRICES_0} / {1 << OFFSET_BITS}"
        ' AND "offset" = (SELECT max("offset") FROM compacted_keys WHERE partition_id ='
        f" {PRICES_0} / {1 << OFFSET_BITS})",
        ("COMPACTION",),
        "prices/0",
        b"x" * 32,
    ),
    "compaction has gone less far than the gaps": Planted(
        "UPDATE compactions SET cleaned_offset = 0", ("OFFSETS", "COMPACTION"), "prices/0"
    ),
    "a producer has an older epoch than on a topic": Planted(
        "UPDATE producer_topics SET producer_epoch = 7", ("PRODUCERS",), "producer shop on orders"
    ),
    "a sequence was skipped": Planted(
        "UPDATE producer_topics SET next_sequence = next_sequence + 1", ("PRODUCERS",), "producer shop on orders"
    ),
    "a producer is missing": Planted("DELETE FROM producers", ("ORPHAN",), "producer shop on orders"),
    "a claimed Idempotency-Key has no result": Planted(
        "UPDATE idempotency_keys SET result = NULL", ("MISSING",), "Idempotency-Key"
    ),
    "an Idempotency-Key has no hash": Planted(
        "UPDATE idempotency_keys SET fingerprint = :garbage", ("UNREADABLE",), "Idempotency-Key", b"x"
    ),
    "an assignment is newer than its group": Planted(
        "UPDATE consumer_groups SET assignment_epoch = group_epoch + 1", ("GROUPS",), "group billing"
    ),
    "a member is newer than its group": Planted(
        "UPDATE consumer_groups SET group_epoch = 0, assignment_epoch = 0", ("GROUPS",), "group billing, member alice"
    ),
    "a partition belongs to two members": Planted(
        "UPDATE group_members SET details = (SELECT details FROM group_members WHERE member_id = 'alice')"
        " WHERE member_id = 'bob'",
        ("GROUPS",),
        "group billing, member bob",
    ),
    "a member is not as reconciled as stored": Planted(
        "UPDATE group_members SET settled = 1 - settled", ("GROUPS",), "group billing, member"
    ),
    "a group with members is marked as empty": Planted(
        "UPDATE consumer_groups SET empty_since_ms = 5", ("GROUPS",), "group billing"
    ),
    "a group is missing": Planted("DELETE FROM consumer_groups WHERE name = 'billing'", ("ORPHAN",), "member alice"),
    "an offset is committed above the log": Planted(
        f"UPDATE group_offsets SET committed_offset = {LARGE}", ("ABOVE_END",), "group "
    ),
    "an offset is committed for a partition that does not exist": Planted(
        "UPDATE group_offsets SET partition = 77 WHERE partition = 1", ("ORPHAN",), "group "
    ),
    "there are two ticks": Planted("INSERT INTO group_ticks (ticked_at_ms) VALUES (1)", ("GROUPS",), "group_ticks"),
    "a queue counts more delayed records than it has": Planted(
        f"UPDATE queue_partitions SET delayed = delayed + 1 WHERE {OF_JOBS}", ("QUEUES",), "queue jobs"
    ),
    "a queue counts more references than it has": Planted(
        f"UPDATE queue_partitions SET reference_count = 1 WHERE {OF_JOBS}", ("QUEUES",), "queue jobs"
    ),
    "a delayed record is missing": Planted(
        f"DELETE FROM delayed_records WHERE blocked_by_key = 1 AND {OF_JOBS}", ("QUEUES",), "queue jobs"
    ),
    "the second record of a key may be delivered": Planted(
        f"UPDATE delayed_records SET blocked_by_key = 0 WHERE {OF_JOBS}", ("QUEUES",), "queue jobs"
    ),
    "no record of a key may be delivered": Planted(
        f"UPDATE delayed_records SET blocked_by_key = 1 WHERE {OF_JOBS}", ("QUEUES",), "queue jobs"
    ),
    "a queue ends before its records in flight": Planted(
        f"UPDATE queue_partitions SET end_offset = 1 WHERE {OF_JOBS}", ("QUEUES",), "queue jobs"
    ),
    "a queue ends after the log": Planted(
        f"UPDATE queue_partitions SET end_offset = {LARGE}", ("ABOVE_END",), "queue jobs"
    ),
    "the state of a share partition is missing": Planted(
        f"DELETE FROM queue_partitions WHERE {OF_JOBS}", ("MISSING", "ORPHAN"), "queue jobs"
    ),
    "the state of a share partition is garbage": Planted(
        "UPDATE queue_partitions SET entries = :garbage", ("UNREADABLE",), "queue jobs", b"\xc1"
    ),
    "a queue is missing": Planted("DELETE FROM queues WHERE name = 'jobs'", ("ORPHAN",), "queue id"),
    "the dead-letter topic is missing": Planted("DELETE FROM topics WHERE name = 'dead'", ("ORPHAN",), "queue jobs"),
    "an archived record is above the queue": Planted(
        f'UPDATE queue_archives SET "offset" = "offset" + {LARGE}', ("QUEUES",), "queue jobs"
    ),
    "a retried record was not acquired": Planted(
        f'UPDATE webhook_retries SET "offset" = "offset" + {LARGE}', ("WEBHOOKS",), "queue webhook:crm:short"
    ),
    "a webhook is missing": Planted("DELETE FROM webhooks", ("ORPHAN",), "queue webhook:crm:short"),
    "a replay ends after the log": Planted(
        f"DELETE FROM records WHERE record_id BETWEEN {BASE}'short' AND p.partition = 0) + 6"
        f" AND {BASE}'short' AND p.partition = 0) + {LARGE}",
        ("ABOVE_END",),
        "replay 1 of webhook crm",
    ),
    "the state of a replay is unknown": Planted(
        "UPDATE webhook_replays SET state = 'lost'", ("WEBHOOKS",), "replay 1 of webhook crm"
    ),
    "a configuration is no JSON": Planted("UPDATE topics SET config = 'x'", ("UNREADABLE",), "topic orders"),
    "a configuration has a value of another type": Planted(
        """UPDATE topics SET config = '{"retention_ms":"x"}'""", ("UNREADABLE",), "topic orders"
    ),
    "the details of a group are garbage": Planted(
        "UPDATE consumer_groups SET details = :garbage", ("UNREADABLE",), "group billing", b"\xc1"
    ),
    "the configuration of a source is garbage": Planted(
        "UPDATE sources SET config = '{}'", ("UNREADABLE",), "source hub"
    ),
    "the version of access is missing": Planted("DELETE FROM access_versions", ("ACCESS",), "access_versions"),
    "the hash of a key is cut": Planted(
        "INSERT INTO api_keys (key_id, name, principal, is_admin, secret_hash, created_at_ms)"
        " VALUES ('k', 'n', 'p', false, :garbage, 1)",
        ("ACCESS",),
        "key k",
        b"x",
    ),
    "an entry neither allows nor denies": Planted(
        "INSERT INTO acls"
        " (principal, permission, operation, resource_type, resource_name, pattern, host, created_at_ms)"
        " VALUES ('p', 'maybe', 'read', 'topic', 't', 'literal', '*', 1)",
        ("ACCESS",),
        "entry 1 of p",
    ),
    "a token has no key": Planted(
        "INSERT INTO stream_tokens (token_hash, target, principal, is_admin, key_id, expires_at_ms)"
        " VALUES (:garbage, '/', 'p', false, 'gone', 1)",
        ("ORPHAN",),
        "key gone",
        b"x" * 32,
    ),
    "a source is missing": Planted("DELETE FROM sources", ("ORPHAN",), "source id"),
}


@pytest.fixture(scope="module", params=ENGINES)
def connection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to the stored database, migrated to the tables of the checkout; each test rolls back."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('verified') / 'millrace.db'}"
        else:
            url = stack.enter_context(request.getfixturevalue("postgres").fresh_database())
        load_stored(url)
        engine = create_engine(url)
        stack.callback(engine.dispose)
        if request.param == "sqlite":
            event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
            event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN"))
        yield stack.enter_context(engine.connect())


def verified(connection: Connection) -> Report:
    report = Report()
    verification.verify(Snapshot(connection, connection.dialect.name, "the database", lambda _: Fault.OTHER), report)
    return report


def test_the_stored_database_is_consistent_and_every_table_is_checked(connection: Connection) -> None:
    report = verified(connection)
    connection.rollback()

    assert report.found == []
    assert min(report.checked.values()) > 0
    assert len(report.checked) == 20


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_inconsistency_is_found(connection: Connection, planted: Planted) -> None:
    parameters: dict[str, Any] = {} if planted.garbage is None else {"garbage": planted.garbage}
    try:
        changed = connection.execute(text(planted.sql), parameters).rowcount
        report = verified(connection)
    finally:
        connection.rollback()

    assert changed > 0
    assert set(planted.kinds) <= {found.kind for found in report.found}
    subjects = [found.subject for found in report.found if found.kind in planted.kinds]
    assert any(subject.startswith(planted.subject) for subject in subjects), subjects


def test_of_many_inconsistencies_some_are_listed_and_all_are_counted(connection: Connection) -> None:
    try:
        connection.execute(text("UPDATE records SET start_bytes = record_id % 1000003"))
        report = verified(connection)
    finally:
        connection.rollback()

    assert sum(found.kind == "SIZES" for found in report.found) == LISTED
    assert report.more["SIZES"] > 0


def test_a_damaged_page_of_sqlite_is_found(tmp_path: Path) -> None:
    path = tmp_path / "millrace.db"
    load_stored(f"sqlite:///{path}")
    with path.open("r+b") as file:
        file.seek(40 * 4096)
        file.write(b"\xff" * 8 * 4096)
    report = Report()

    with open_snapshot(f"sqlite:///{path}") as snapshot:
        verification.verify(snapshot, report)

    assert "DAMAGED" in {found.kind for found in report.found}
