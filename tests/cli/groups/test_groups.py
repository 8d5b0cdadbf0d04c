"""`millrace groups`: list, describe, offsets, rebalances, reset and delete."""

from __future__ import annotations

import json

import pytest

from tests.cli.groups.group_commands import committed_offsets, produce, request
from tests.cli.processes import Cli
from tests.cli.pseudo_terminal import on_terminal


@pytest.fixture
def group(cli: Cli, topic: str) -> str:
    """A group that has committed 1 of 5 records in the topic of its name; member ann has both partitions."""
    cli.ok("topics", "create", topic, "-p", "2")
    produce(cli, topic, range(5))
    ends = json.loads(cli.ok("topics", "describe", topic).out)["partitions"]
    assert sum(one["log_end_offset"] for one in ends) == 5
    request(cli, "POST", f"/v1/groups/{topic}/members", {"topics": [topic], "member_id": "ann"})
    commit = [{"topic": topic, "partition": max(ends, key=lambda one: one["log_end_offset"])["partition"], "offset": 1}]
    request(cli, "POST", f"/v1/groups/{topic}/offsets", {"member_id": "ann", "member_epoch": 1, "offsets": commit})
    return topic


def leave(cli: Cli, group: str) -> None:
    request(cli, "DELETE", f"/v1/groups/{group}/members/ann")


def test_list_prints_a_line_of_json_for_each_group(cli: Cli, group: str) -> None:
    found = {one["name"]: one for one in map(json.loads, cli.ok("groups", "list").lines)}
    assert found[group] == {
        "name": group,
        "state": "STABLE",
        "group_epoch": 1,
        "assignment_epoch": 1,
        "members": 1,
    }


def test_describe_prints_members_and_lag_from_two_requests(cli: Cli, group: str) -> None:
    done = cli.ok("groups", "describe", group, "-v")
    assert len(done.err.splitlines()) == 2
    described = json.loads(done.out)
    assert described["group"]["state"] == "STABLE"
    (member,) = described["group"]["members"]
    assert member["assignment"] == [{"topic": group, "partitions": [0, 1]}]
    assert sum(one["lag"] for one in described["offsets"]) == 4


def test_offsets_prints_a_line_for_each_partition(cli: Cli, group: str) -> None:
    lines = [json.loads(line) for line in cli.ok("groups", "offsets", group).lines]
    assert [(one["topic"], one["partition"]) for one in lines] == [(group, 0), (group, 1)]
    assert sorted(one["committed_offset"] for one in lines) == [0, 1]
    assert sum(one["lag"] for one in lines) == 4


def test_rebalances_prints_reasons_and_assignments(cli: Cli, group: str) -> None:
    (one,) = map(json.loads, cli.ok("groups", "rebalances", group).lines)
    assert one["reasons"] == ["member_joined"]
    assert one["members"] == [{"member_id": "ann", "before": [], "after": [{"topic": group, "partitions": [0, 1]}]}]


def test_a_terminal_shows_tables_of_groups(cli: Cli, group: str) -> None:
    code, shown = on_terminal(cli, "groups", "describe", group)
    assert code == 0
    lines = [line.split() for line in shown.splitlines()]
    assert lines[1] == [group, "STABLE", "1", "1", "1"]
    assert (lines[4][:3], lines[4][4:]) == (["ann", "STABLE", "1"], [group, "0-1", "4"])
    assert [line[0] for line in lines[7:9]] == [group, group]
    assert [line[-1] for line in lines[7:9]] == ["ann", "ann"]
    code, shown = on_terminal(cli, "groups", "rebalances", group)
    assert (code, "member_joined" in shown, "nothing" in shown) == (0, True, True)
    code, shown = on_terminal(cli, "groups", "list")
    assert (code, group in shown) == (0, True)
    code, shown = on_terminal(cli, "groups", "offsets", group, "--json")
    assert (code, json.loads(shown.splitlines()[0])["topic"]) == (0, group)


def test_reset_without_execute_only_shows_the_plan(cli: Cli, group: str) -> None:
    before = committed_offsets(cli, group)
    done = cli.ok("groups", "reset", group, group, "--to", "latest")
    plan = [json.loads(line) for line in done.lines]
    assert sum(one["offset"] for one in plan) == 5
    assert {one["partition"]: one["committed_offset"] for one in plan} == before
    assert done.err == "millrace: this is the plan; add --execute to carry it out\n"
    assert committed_offsets(cli, group) == before
    code, shown = on_terminal(cli, "groups", "reset", group, group, "--to", "latest")
    assert code == 0
    assert [line.split() for line in shown.splitlines()[1:3]] == [
        [group, str(one["partition"]), str(one["committed_offset"]), str(one["offset"])] for one in plan
    ]
    assert shown.endswith(done.err)


def test_reset_sets_the_offsets_of_a_group_without_members(cli: Cli, group: str) -> None:
    words = ("groups", "reset", group, group)
    refused = cli(*words, "--to", "earliest", "--execute")
    assert (refused.code, refused.out) == (4, b"")
    assert refused.err.endswith("stop them to set offsets from outside (NON_EMPTY_GROUP)\n")
    leave(cli, group)
    done = cli.ok(*words, "--to", "latest", "--execute")
    assert done.err == f"millrace: moved {group}\n"
    assert sum(committed_offsets(cli, group).values()) == 5
    cli.ok(*words, "--to", "0", "--partitions", "1", "--execute")
    ends = committed_offsets(cli, group)
    assert ends[1] == 0
    assert ends[0] > 0
    cli.ok(*words, "--to", "-1", "--execute")
    assert sum(committed_offsets(cli, group).values()) == 3
    cli.ok(*words, "--to", "@2018-01-31T00:00:00Z", "--execute")
    assert committed_offsets(cli, group) == {0: 0, 1: 0}


def test_delete_asks_for_confirmation_and_refuses_a_group_with_members(cli: Cli, group: str) -> None:
    assert cli("groups", "delete", group).code == 2
    refused = cli("groups", "delete", group, "--yes")
    assert (refused.code, "(NON_EMPTY_GROUP)" in refused.err) == (4, True)
    leave(cli, group)
    code, shown = on_terminal(cli, "groups", "delete", group, typed=b"n\n")
    assert (code, f"Delete {group} and its committed offsets?" in shown) == (1, True)
    assert cli.ok("groups", "delete", group, "--yes").err == f"millrace: deleted {group}\n"
    assert cli("groups", "describe", group).code == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["describe", "nobody"], 3, "(GROUP_ID_NOT_FOUND)"),
        (["offsets", "nobody"], 3, "(GROUP_ID_NOT_FOUND)"),
        (["rebalances", "nobody"], 3, "(GROUP_ID_NOT_FOUND)"),
        (["delete", "nobody", "--yes"], 3, "(GROUP_ID_NOT_FOUND)"),
        (["describe", "no body"], 4, "(INVALID_GROUP_ID)"),
        (["reset", "g", "nowhere", "--to", "earliest"], 3, "(UNKNOWN_TOPIC_OR_PARTITION)"),
        (["reset", "g", "t", "--to", "earliest", "--partitions", "0;2"], 2, "is not a list of numbers"),
        (["reset", "g", "t"], 2, "Missing option '--to'"),
    ],
)
def test_each_error_has_its_exit_code(cli: Cli, words: list[str], code: int, message: str) -> None:
    done = cli("groups", *words)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_reset_refuses_an_invalid_offset(cli: Cli, group: str) -> None:
    for to in ("9999", "sometimes"):
        assert cli("groups", "reset", group, group, "--to", to).code == 4


def test_reset_of_a_group_without_offsets_asks_whether_its_name_is_mistyped(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    mistyped = f"{topic}-groop"

    for more, last in ([], "millrace: this is the plan; add --execute to carry it out\n"), (["--execute"], "moved"):
        done = cli.ok("groups", "reset", mistyped, topic, "--to", "earliest", *more)
        assert f"{mistyped} had no committed offsets in {topic}; if it is not a new group, its name is " in done.err
        assert last in done.err
    assert "had no committed" not in cli.ok("groups", "reset", mistyped, topic, "--to", "earliest").err
