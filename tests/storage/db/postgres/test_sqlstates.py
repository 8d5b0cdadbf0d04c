"""Errors of PostgreSQL: what each SQLSTATE is for a request, and which errors of a commit leave its outcome unknown."""

from __future__ import annotations

import contextlib
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors

from app.errors.broker_error import BrokerError
from app.errors.database import DiskFull, OutcomeUnknown, ServiceUnavailable
from app.storage.db.faults import ERRORS, RETRIED, Fault
from app.storage.db.opening import open_storage
from app.storage.db.postgres.sqlstates import CLASSES, STATES, fault_of
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

pytestmark = pytest.mark.postgres

UNAVAILABLE = {
    "08000": "cannot be reached",
    "08006": "cannot be reached",
    "08P01": "cannot be reached",
    "09000": "an error of its own",
    "0A000": "read-only",
    "0L000": "lacks a right",
    "0P000": "lacks a right",
    "22021": "not in UTF8",
    "22P05": "not in UTF8",
    "24000": "not in the expected state",
    "25000": "not in the expected state",
    "25001": "not in the expected state",
    "25006": "read-only",
    "25P01": "not in the expected state",
    "25P02": "not in the expected state",
    "25P03": "cannot be reached",
    "25P04": "cannot be reached",
    "26000": "conflicting requests",
    "27000": "an error of its own",
    "28000": "refuses the login",
    "28P01": "refuses the login",
    "2D000": "not in the expected state",
    "34000": "not in the expected state",
    "38000": "an error of its own",
    "39000": "an error of its own",
    "3D000": "does not exist",
    "3F000": "run millrace migrate",
    "40000": "conflicting requests",
    "40001": "conflicting requests",
    "40003": "cannot be reached",
    "40P01": "conflicting requests",
    "42501": "lacks a right",
    "42703": "run millrace migrate",
    "42704": "run millrace migrate",
    "42804": "run millrace migrate",
    "42883": "run millrace migrate",
    "42P01": "run millrace migrate",
    "42P05": "not in the expected state",
    "42P10": "run millrace migrate",
    "53000": "lacks memory",
    "53200": "lacks memory",
    "53300": "too many connections",
    "53400": "lacks memory",
    "54000": "reached a limit",
    "54001": "reached a limit",
    "55000": "an error of its own",
    "55006": "a lock in the database timed out",
    "55P03": "a lock in the database timed out",
    "57014": "a lock in the database timed out",
    "57P01": "cannot be reached",
    "57P02": "cannot be reached",
    "57P03": "starting or shutting down",
    "57P04": "does not exist",
    "57P05": "cannot be reached",
    "58000": "an error of its own",
    "58030": "an error of its own",
    "58P01": "an error of its own",
    "F0000": "an error of its own",
    "HV000": "an error of its own",
    "P0001": "an error of its own",
    "XX000": "an error of its own",
    "XX001": "damaged data",
    "XX002": "damaged data",
    "ZZ000": "an error of its own",
}
INTERNAL = ["21000", "22001", "22003", "22P02", "23502", "23503", "23505", "23514", "42601", "42602", "42P02", "44000"]
RAISE = "DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{}'; END $$"


@pytest.fixture
def opened(migrated_postgres_url: str) -> Iterator[Storage]:
    """An open database, on PostgreSQL."""
    with closing(open_storage(migrated_postgres_url)) as storage:
        yield storage


def raising(sqlstate: str) -> Callable[[Tx], None]:
    """Return a transaction that the server ends with an error."""

    def run(tx: Tx) -> None:
        tx.connection.exec_driver_sql(RAISE.format(sqlstate))

    return run


def test_every_class_of_errors_is_one_of_the_table() -> None:
    known = {
        each.sqlstate
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, psycopg.Error) and isinstance(each.sqlstate, str)
    }

    assert len(known) > 200
    assert {sqlstate[:2] for sqlstate in known} <= set(CLASSES)
    assert set(STATES) <= known
    assert all(fault in ERRORS or fault is Fault.OTHER for fault in (*CLASSES.values(), *STATES.values()))


@pytest.mark.parametrize("sqlstate", UNAVAILABLE)
def test_an_error_of_the_database_is_a_refusal_that_names_the_cause(opened: Storage, sqlstate: str) -> None:
    for call in (opened.read_now, opened.write_now):
        with pytest.raises(ServiceUnavailable, match=UNAVAILABLE[sqlstate]) as refused:
            call(raising(sqlstate))
        assert refused.value.retriable
    assert opened.write_now(lambda tx: tx.connection.exec_driver_sql("SELECT 1").scalar_one()) == 1


def test_a_full_disk_is_an_error_of_its_own(opened: Storage) -> None:
    with pytest.raises(DiskFull):
        opened.write_now(raising("53100"))


@pytest.mark.parametrize("sqlstate", INTERNAL)
def test_an_error_of_this_program_is_no_refusal(opened: Storage, sqlstate: str) -> None:
    with pytest.raises(Exception, match="refused") as error:
        opened.write_now(raising(sqlstate))

    assert not isinstance(error.value, BrokerError)


def test_only_errors_that_another_attempt_may_avoid_are_repeated(opened: Storage) -> None:
    for sqlstate, attempts in {"40001": 3, "08006": 3, "25P02": 3, "25006": 3, "53200": 1, "XX000": 1}.items():
        seen: list[int] = []

        def run(tx: Tx, sqlstate: str = sqlstate, seen: list[int] = seen) -> None:
            seen.append(1)
            raising(sqlstate)(tx)

        with pytest.raises(ServiceUnavailable):
            opened.write_now(run)
        assert len(seen) == attempts, sqlstate
        assert (fault_of(errors.lookup(sqlstate)()) in RETRIED) == (attempts > 1)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('FATAL:  password authentication failed for user "u"', "refuses the login"),
        ('FATAL:  role "u" does not exist', "refuses the login"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d", no encryption', "the login"),
        ("fe_sendauth: no password supplied", "refuses the login"),
        ('FATAL:  database "d" does not exist', "the database does not exist"),
        ("FATAL:  the database system is starting up", "starting or shutting down"),
        ("FATAL:  the database system is not yet accepting connections", "starting or shutting down"),
        ("FATAL:  sorry, too many clients already", "too many connections"),
        ('FATAL:  permission denied for database "d"', "lacks a right"),
        ("session is read-only", "read-only"),
        ("Connection refused", "cannot be reached"),
        ('could not translate host name "h" to address', "cannot be reached"),
    ],
)
def test_an_error_on_connecting_names_its_cause(message: str, words: str) -> None:
    fault = fault_of(psycopg.OperationalError(f'connection to server at "h", port 5432 failed: {message}'))

    assert words in ERRORS[fault][1]


def test_a_login_and_a_database_that_the_server_does_not_have_are_named(migrated_postgres_url: str) -> None:
    user = migrated_postgres_url.replace("//millrace", "//nobody", 1)
    for url, words in ((user, "refuses the login"), (f"{migrated_postgres_url}_not", "the database does not exist")):
        with (
            closing(open_storage(url)) as storage,
            pytest.raises(ServiceUnavailable, match=words),
        ):
            storage.read_now(lambda tx: tx.connection)


def defer(sql: str) -> Callable[[Tx], None]:
    """Return a transaction whose statement is sent with COMMIT."""
    return lambda tx: tx.dialect.defer(tx, sql, [])


FAILING_FUNCTION = """
CREATE FUNCTION fail() RETURNS void LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{}'; END $$
"""


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("53200", ServiceUnavailable),
        ("53100", DiskFull),
        ("57014", ServiceUnavailable),
        ("XX001", ServiceUnavailable),
        ("55P03", ServiceUnavailable),
        ("08006", OutcomeUnknown),
        ("40003", OutcomeUnknown),
        ("58000", OutcomeUnknown),
    ],
)
def test_an_error_in_the_round_trip_of_commit_is_unknown_only_if_it_does_not_say_that_nothing_was_written(
    opened: Storage, sqlstate: str, kind: type[BrokerError]
) -> None:
    opened.write_now(lambda tx: tx.connection.exec_driver_sql(FAILING_FUNCTION.format(sqlstate)))

    with pytest.raises(BrokerError) as refused:
        opened.write_now(defer("SELECT fail()"))

    assert type(refused.value) in {kind, *kind.__subclasses__()}


def test_the_end_of_the_session_during_commit_has_an_unknown_outcome(opened: Storage) -> None:
    with pytest.raises(OutcomeUnknown):
        opened.write_now(defer("SELECT pg_terminate_backend(pg_backend_pid())"))


def test_a_transaction_that_has_failed_is_not_reported_as_committed(opened: Storage) -> None:
    def swallow(tx: Tx) -> None:
        driver = tx.driver()
        driver.execute("CREATE TABLE lost (id int)")
        with contextlib.suppress(psycopg.Error):
            driver.execute("SELECT no_such")

    with pytest.raises(ServiceUnavailable, match="not in the expected state"):
        opened.write_now(swallow)


def test_a_connection_that_was_lost_before_commit_is_opened_again(opened: Storage) -> None:
    lost: list[int] = []

    def lose(tx: Tx) -> str:
        driver = tx.driver()
        driver.execute("SELECT 1")
        if not lost:
            lost.append(1)
            driver.close()
        return "written"

    assert opened.write_now(lose) == "written"


@pytest.fixture(scope="module")
def replicated() -> Iterator[PostgresServer]:
    """A PostgreSQL whose commits wait for a standby that does not exist."""
    with PostgresServer(settings={"synchronous_standby_names": "standby"}) as server:
        yield server


def test_a_commit_whose_wait_for_a_standby_was_cancelled_has_an_unknown_outcome(replicated: PostgresServer) -> None:
    waits = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    ended = threading.Event()

    def cancel() -> None:
        with psycopg.connect(replicated.url, autocommit=True) as connection:
            while not ended.wait(0.01):
                connection.execute(waits)

    canceller = threading.Thread(target=cancel)
    with closing(open_storage(replicated.url)) as storage:
        canceller.start()
        try:
            with pytest.raises(OutcomeUnknown):
                storage.write_now(lambda tx: tx.connection.exec_driver_sql("CREATE TABLE kept (id int)"))
        finally:
            ended.set()
            canceller.join()
        assert storage.read_now(lambda tx: tx.connection.exec_driver_sql("SELECT count(*) FROM kept").scalar()) == 0
