"""Stored groups and members: saving and loading, locks, sessions, and last polls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from app.domain.groups import assignment
from app.domain.groups.assignment import Rebalance
from app.domain.groups.group import Group, join_group, leave_group
from app.domain.groups.member import JoinRequest, Subscription
from app.storage.db import clock
from app.storage.db.opening import open_storage
from app.storage.groups import groups, members, rebalances
from app.storage.groups.members import Renewal, SessionKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

NOW_MS = 1_700_000_000_000


def join_request(name: str, *topics: str, pattern: str | None = None) -> JoinRequest:
    return JoinRequest(member_id=name, subscription=Subscription(topics or ("orders",), pattern), client_id="é\0")


def create(storage: Storage, name: str = "billing", *member_ids: str) -> Group:
    """Create a group with members and an assignment."""

    def run(tx: Tx) -> None:
        groups.create(tx, name, NOW_MS)
        before = groups.load(tx, name)
        assert before is not None
        after = before
        for member_id in member_ids:
            after = join_group(after, join_request(member_id), clock.read(tx), 10)
        if member_ids:
            after, _ = assignment.update_target_assignment(after, {"orders": assignment.TopicMetadata(7, 2)}, NOW_MS)
        groups.save(tx, before, after)

    storage.write_now(run)
    return find(storage, name)


def find(storage: Storage, name: str = "billing") -> Group:
    found = storage.read_now(groups.find, name)
    assert found is not None
    return found


def step(storage: Storage, take: Callable[[Group], Group], name: str = "billing") -> Group:
    def run(tx: Tx) -> Group:
        before = groups.load(tx, name)
        assert before is not None
        after = take(before)
        groups.save(tx, before, after)
        return after

    return storage.write_now(run)


def test_a_group_is_loaded_as_it_was_saved(storage: Storage) -> None:
    create(storage, "billing", "alice", "bob")

    after = step(storage, lambda group: join_group(group, join_request("zoe", pattern="or*"), NOW_MS, 9))
    assert find(storage) == after
    after = step(storage, lambda group: leave_group(group, "alice", NOW_MS))

    assert find(storage) == after
    assert list(find(storage).members) == ["bob", "zoe"]
    assert storage.read_now(groups.find, "other") is None


def test_a_step_that_changes_nothing_writes_nothing(storage: Storage) -> None:
    create(storage, "billing", "alice")
    statements = recorded(storage.dialect.write_engine)

    step(storage, lambda group: group)

    assert [one.split()[0] for one in statements] == []


def test_a_group_created_twice_exists_once(storage: Storage) -> None:
    first = create(storage)

    assert create(storage) == first
    assert storage.read_now(groups.count) == 1


def test_a_page_of_the_list_takes_one_statement(storage: Storage) -> None:
    for number in range(30):
        create(storage, f"g{number:02}", *["alice", "bob"][: number % 3])
    statements = recorded(storage.dialect.read_engine)

    found = storage.read_now(groups.list_, "g09", 11)

    assert [one.name for one in found] == [f"g{number}" for number in range(10, 21)]
    assert [one.members for one in found] == [1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert {one.state for one in found} == {"EMPTY", "STABLE", "RECONCILING"}
    assert len(statements) == 1


def recorded(engine: Any) -> list[str]:
    """Return a list that collects the statements of an engine."""
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return statements


def test_a_session_is_renewed_only_at_its_epoch(storage: Storage) -> None:
    group = create(storage, "billing", "alice", "bob")
    storage.write_now(_advance_time, 20_000)
    storage.write_now(_assign_at, 1)
    alice, bob = (SessionKey(group.group_id, name, group.members[name].member_epoch) for name in ("alice", "bob"))
    stale, gone = SessionKey(group.group_id, "bob", 9), SessionKey(group.group_id, "zoe", 1)

    assert storage.write_now(members.renew_sessions, dict.fromkeys([alice, stale, gone], 0)) == ({alice}, set())

    deadlines = {name: member.deadline_ms for name, member in find(storage).members.items()}
    assert 19_000 < deadlines["alice"] - deadlines["bob"] < 25_000
    assert storage.write_now(members.renew_sessions, {gone: 0}) == (set(), set())
    assert storage.write_now(members.renew_sessions, {alice: 0, bob: 0}) == ({alice, bob}, set())


def test_a_session_lasts_from_the_heartbeat_and_is_never_shortened(storage: Storage) -> None:
    group = create(storage, "billing", "alice", "bob")
    storage.write_now(_advance_time, 20_000)
    storage.write_now(_assign_at, 1)
    alice, bob = (SessionKey(group.group_id, name, group.members[name].member_epoch) for name in ("alice", "bob"))
    before = {name: member.deadline_ms for name, member in find(storage).members.items()}

    assert storage.write_now(members.renew_sessions, {alice: 5_000, bob: 30_000}) == ({alice, bob}, set())

    after = {name: member.deadline_ms for name, member in find(storage).members.items()}
    assert 14_000 < after["alice"] - before["alice"] < 20_000
    assert after["bob"] == before["bob"]


def test_a_session_of_a_member_behind_the_assignment_epoch_is_renewed_but_not_reported(storage: Storage) -> None:
    group = create(storage, "billing", "alice")
    storage.write_now(_advance_time, 20_000)
    storage.write_now(_assign_at, 9)

    assert storage.write_now(members.renew_sessions, {SessionKey(group.group_id, "alice", 1): 0}) == (set(), set())

    assert find(storage).members["alice"].deadline_ms > group.members["alice"].deadline_ms - 5_000


def _assign_at(tx: Tx, epoch: int) -> None:
    tx.connection.exec_driver_sql(f"UPDATE consumer_groups SET assignment_epoch = {epoch}")


def _advance_time(tx: Tx, ms: int) -> None:
    tx.connection.exec_driver_sql(f"UPDATE group_members SET deadline_ms = deadline_ms - {ms}")


def test_a_last_poll_is_saved_only_at_its_epoch_and_taken_once(storage: Storage) -> None:
    create(storage, "billing", "alice")
    found = storage.read_now(members.find, "billing", "alice")
    assert found is not None
    ranges = {(7, 0): (3, 5), (7, 1): (0, 1)}

    assert storage.write_now(members.save_last_poll, found, 0, ranges)
    step(storage, lambda group: join_group(group, join_request("alice"), NOW_MS, 9))
    assert not storage.write_now(members.save_last_poll, found, 0, {})

    taken = storage.write_now(members.begin_poll, found.group_id, "alice", 0)
    assert (taken and taken.member_epoch, taken and taken.ranges) == (1, ranges)
    assert storage.write_now(members.begin_poll, found.group_id, "alice", 0) is None
    assert storage.write_now(members.begin_poll, found.group_id, "zoe", 0) is None


def test_a_poll_of_an_earlier_poll_epoch_is_not_saved(storage: Storage) -> None:
    create(storage, "billing", "alice")
    found = storage.read_now(members.find, "billing", "alice")
    assert found is not None

    assert storage.write_now(members.begin_poll, found.group_id, "alice", 0) is not None

    assert not storage.write_now(members.save_last_poll, found, 0, {(7, 0): (0, 9)})
    assert storage.write_now(members.save_last_poll, found, 1, {(7, 0): (0, 5)})
    assert storage.read_now(members.find_poll_epoch, found) == 1


def test_a_group_created_again_has_another_id_and_no_history(storage: Storage) -> None:
    first = create(storage, "billing", "alice")
    step(storage, lambda group: leave_group(group, "alice", NOW_MS))
    storage.write_now(
        lambda tx: rebalances.add_rebalance(tx, first, Rebalance(1, NOW_MS, (), {"alice": ((7, 0),)}), {7: "orders"})
    )
    storage.write_now(groups.delete_, find(storage))

    again = create(storage)

    assert again.group_id > first.group_id
    assert storage.read_now(rebalances.rebalances, "billing") == []
    assert storage.read_now(rebalances.rebalances, "other") is None


@pytest.fixture
def nodes(migrated_postgres_url: str) -> Iterator[tuple[Storage, Storage]]:
    """Two nodes on one PostgreSQL database."""
    first, second = open_storage(migrated_postgres_url), open_storage(migrated_postgres_url)
    yield first, second
    first.close()
    second.close()


@pytest.mark.postgres
def test_a_renewal_skips_a_member_that_a_step_has_locked(nodes: tuple[Storage, Storage]) -> None:
    first, second = nodes
    group = create(first, "billing", "alice")
    session = SessionKey(group.group_id, "alice", 1)

    def hold(tx: Tx) -> Renewal:
        groups.load(tx, "billing")
        return second.write_now(members.renew_sessions, {session: 0})

    assert first.write_now(hold) == (set(), {session})
    assert second.write_now(members.renew_sessions, {session: 0}) == ({session}, set())


@pytest.mark.postgres
def test_a_member_locked_after_a_step_is_as_the_step_saved_it(nodes: tuple[Storage, Storage]) -> None:
    first, second = nodes
    create(first, "billing", "alice")

    def hold(tx: Tx) -> Any:
        before = groups.load(tx, "billing")
        assert before is not None
        groups.save(tx, before, join_group(before, join_request("alice"), NOW_MS, 9))
        waiting = pool.submit(second.write_now, members.load, "billing", "alice")
        _until_a_lock_wait(tx)
        return waiting

    with ThreadPoolExecutor(1) as pool:
        found = first.write_now(hold).result()

    assert found is not None
    assert found.member.member_epoch == 2


def _until_a_lock_wait(tx: Tx) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    for _ in range(100_000):
        tx.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
        if tx.connection.exec_driver_sql(waiting).scalar_one():
            return
    raise AssertionError("no session waits for a lock")
