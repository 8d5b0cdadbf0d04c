"""`millrace consume --group`: shared topics, takeover, and commits of written records only."""

from __future__ import annotations

import json
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli.groups.group_commands import (
    committed_offsets,
    lag,
    numbers,
    partition_counts,
    produce,
    record,
    request,
    start_consumer,
)
from tests.cli.lossy_proxy import lossy_proxy
from tests.cli.processes import DEADLINE_S, MILLRACE, Cli, await_line, free_port, serving, wait_until
from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    from pathlib import Path

SESSION_MS = 1_500
PIPE_BYTES = 65_536
HEARTBEATS_OF_TWO_SESSIONS = 13
"""A member sends six in a session."""


def test_two_consumers_share_a_topic_without_overlap_or_loss(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "4")
    with start_consumer(cli, topic, "ann", "--follow") as ann, start_consumer(cli, topic, "bob", "--follow") as bob:
        wait_until(lambda: partition_counts(cli, topic) == {"ann": 2, "bob": 2})
        produce(cli, topic, range(400))
        wait_until(lambda: lag(cli, topic) == 0)
        outputs = []
        for consumer in (ann, bob):
            consumer.send_signal(signal.SIGINT)
            outputs.append(consumer.communicate()[0])
    assert sorted(numbers(outputs[0]) + numbers(outputs[1])) == list(range(400))
    first, second = ({record(line)["partition"] for line in output.splitlines()} for output in outputs)
    assert (len(first), len(second), first & second) == (2, 2, set())


def test_a_killed_consumer_is_replaced_after_its_session_timeout(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "4")
    words = ("--follow", "--session-timeout-ms", str(SESSION_MS))
    with start_consumer(cli, topic, "ann", *words) as ann, start_consumer(cli, topic, "bob", *words) as bob:
        wait_until(lambda: partition_counts(cli, topic) == {"ann": 2, "bob": 2})
        produce(cli, topic, range(100))
        wait_until(lambda: lag(cli, topic) == 0)
        ann.kill()
        wait_until(lambda: partition_counts(cli, topic) == {"bob": 4})
        produce(cli, topic, range(100, 200))
        wait_until(lambda: lag(cli, topic) == 0)
        bob.send_signal(signal.SIGINT)
        taken = numbers(bob.communicate()[0])
        assert sorted(numbers(ann.communicate()[0]) + taken) == list(range(200))
        assert set(range(100, 200)) <= set(taken)


def test_written_records_that_are_not_committed_are_delivered_again(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(200), padding="x" * 1_000)
    with start_consumer(cli, topic, "ann") as ann:
        assert ann.stdout is not None
        assert record(ann.stdout.readline())["offset"] == 0
        ann.kill()
        assert len(ann.stdout.read()) > 1_000
    assert committed_offsets(cli, topic) == {0: 0}
    assert numbers(cli.ok("consume", topic, "-g", topic, "--member-id", "ann").out) == list(range(200))


def test_a_consumer_that_is_killed_repeatedly_loses_no_record(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "3")
    produce(cli, topic, range(4_000))
    rng = random.Random(7)
    written: dict[int, int] = {}
    seen: set[int] = set()
    for _ in range(6):
        with start_consumer(cli, topic, "ann") as ann:
            assert ann.stdout is not None
            output = b"".join(ann.stdout.readline() for _ in range(rng.randint(1, 900)))
            ann.kill()
            whole, _, _ = (output + ann.stdout.read()).rpartition(b"\n")
        seen |= set(numbers(whole))
        for line in whole.splitlines():
            written[record(line)["partition"]] = max(
                written.get(record(line)["partition"], 0), record(line)["offset"] + 1
            )
        for partition, committed in committed_offsets(cli, topic).items():
            assert committed <= written.get(partition, 0)
    rest = numbers(cli.ok("consume", topic, "-g", topic, "--member-id", "ann").out)
    assert len(rest) < 4_000
    assert seen | set(rest) == set(range(4_000))
    assert lag(cli, topic) == 0


def test_count_limits_written_and_committed_records_exactly(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2")
    produce(cli, topic, range(700))
    read = []
    for count in (1, 3, 596):
        done = cli.ok("consume", topic, "-g", topic, "-n", str(count))
        assert len(done.lines) == count
        read += numbers(done.out)
        assert sum(committed_offsets(cli, topic).values()) == len(read)
    done = cli.ok("consume", topic, "-g", topic, "-n", "1000")
    assert sorted(read + numbers(done.out)) == list(range(700))
    assert partition_counts(cli, topic) == {}


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_makes_a_consumer_commit_its_written_records_and_leave(
    cli: Cli, topic: str, sent: signal.Signals, code: int
) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(300), padding="x" * 1_000)
    with start_consumer(cli, topic, "ann", "--follow") as ann:
        assert ann.stdout is not None
        first = ann.stdout.readline()
        ann.send_signal(sent)
        rest = ann.stdout.read()
        assert ann.wait(DEADLINE_S) == code
    taken = numbers(first + rest)
    assert len(taken) < 300
    assert committed_offsets(cli, topic) == {0: len(taken)}
    assert partition_counts(cli, topic) == {}


def test_ctrl_c_ends_a_consumer_whose_reader_does_not_read(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(1), padding="x" * 3 * PIPE_BYTES)
    with start_consumer(cli, topic, "ann", "-v", "--session-timeout-ms", "1000") as ann:
        await_line(ann, containing="/heartbeat")
        ann.send_signal(signal.SIGINT)
        assert ann.wait() == 130
    assert partition_counts(cli, topic) == {}
    assert lag(cli, topic) == 1


def test_a_closed_pipe_ends_the_consumer(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(600), padding="x" * 500)
    done = cli.shell(f"{MILLRACE} consume {topic} --group {topic} --follow | head -1")
    assert (done.code, done.err, len(done.lines)) == (0, "", 1)
    assert partition_counts(cli, topic) == {}


def test_a_closed_pipe_ends_a_consumer_that_has_nothing_to_write(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with start_consumer(cli, topic, "ann", "--follow", "--session-timeout-ms", "1000") as ann:
        wait_until(lambda: partition_counts(cli, topic) == {"ann": 4})
        assert ann.stdout is not None
        ann.stdout.close()
        assert ann.wait() == 0
    assert partition_counts(cli, topic) == {}


def test_records_that_cannot_be_written_are_not_committed(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(10))
    done = cli.shell(f"{MILLRACE} consume {topic} --group {topic} > /dev/full")
    assert (done.code, done.err) == (1, "millrace: cannot write the output: No space left on device\n")
    assert lag(cli, topic) == 10
    assert partition_counts(cli, topic) == {}


def test_a_consumer_whose_reader_does_not_read_stays_a_member(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(200), padding="x" * 1_000)
    with start_consumer(cli, topic, "ann", "-v", "-n", "200", "--session-timeout-ms", "1000") as ann:
        for _ in range(HEARTBEATS_OF_TWO_SESSIONS):
            await_line(ann, containing="/heartbeat")
        committed = committed_offsets(cli, topic)[0]
        assert 40 < committed < 70  # a pipe buffers 64 KiB
        (member,) = request(cli, "GET", f"/v1/groups/{topic}")["members"]
        assert (member["member_id"], member["member_epoch"]) == ("ann", 1)
        assert numbers(ann.communicate()[0]) == list(range(200))
    assert len(cli.ok("groups", "rebalances", topic).lines) == 2
    assert lag(cli, topic) == 0


def test_revoked_partitions_are_given_up_at_once_while_the_reader_does_not_read(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "4")
    produce(cli, topic, range(400), padding="x" * 1_000)
    words = ("-v", "--session-timeout-ms", "1000")
    with start_consumer(cli, topic, "ann", *words) as ann:
        await_line(ann, containing="/heartbeat")
        with start_consumer(cli, topic, "bob", *words) as bob:
            assert await_line(ann, containing="millrace: revoked").startswith(f"millrace: revoked {topic} ")
            wait_until(lambda: partition_counts(cli, topic) == {"ann": 2, "bob": 2})
            outputs = []
            for consumer in (ann, bob):
                consumer.send_signal(signal.SIGINT)
                outputs.append(consumer.communicate()[0])
    outputs.append(cli.ok("consume", topic, "-g", topic).out)
    assert sorted(number for output in outputs for number in numbers(output)) == list(range(400))


def test_without_follow_it_ends_when_the_group_has_committed_all_records_of_the_start(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2")
    with start_consumer(cli, topic, "ann", "--follow") as ann:
        wait_until(lambda: partition_counts(cli, topic) == {"ann": 2})
        with start_consumer(cli, topic, "bob", "--follow") as bob:
            wait_until(lambda: partition_counts(cli, topic) == {"ann": 1, "bob": 1})
            produce(cli, topic, range(300), padding="x" * 1_000)
            with start_consumer(cli, topic, "cy", "-v") as cy:
                for _ in range(3):
                    await_line(cy, containing=f"{topic}/offsets")
                assert cy.poll() is None
                for consumer in (ann, bob):
                    consumer.send_signal(signal.SIGINT)
                outputs = [consumer.communicate()[0] for consumer in (ann, bob, cy)]
                assert cy.returncode == 0
    assert sorted(number for output in outputs for number in numbers(output)) == list(range(300))
    assert lag(cli, topic) == 0


def test_a_consumer_continues_after_a_restart_of_the_server(tmp_path: Path) -> None:
    port = str(free_port())
    cli = Cli(tmp_path, f"http://127.0.0.1:{port}")
    with serving(tmp_path, "--port", port) as server:
        produce(cli, "t", range(1))
        with start_consumer(cli, "t", "ann", "-f", "-n", "2") as consumer:
            assert consumer.stdout is not None
            assert numbers(consumer.stdout.readline()) == [0]
            server.process.kill()
            await_line(consumer, containing="trying again")
            with serving(tmp_path, "--port", port):
                produce(cli, "t", range(1, 2))
                assert numbers(consumer.communicate()[0]) == [1]
                assert consumer.returncode == 0
                assert lag(cli, "t") == 0
                assert partition_counts(cli, "t") == {}


def test_lost_answers_neither_lose_nor_duplicate_records(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "3")
    produce(cli, topic, range(2_500))
    with lossy_proxy(cli.url, lambda number: number > 1 and number % 3 == 0) as url:
        done = cli.ok("consume", topic, "-g", topic, "-f", "-n", "2500", "--url", url)
    assert sorted(numbers(done.out)) == list(range(2_500))
    assert "trying again" in done.err
    assert lag(cli, topic) == 0


def test_a_removed_member_rejoins(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    with start_consumer(cli, topic, "ann", "--follow") as ann:
        wait_until(lambda: partition_counts(cli, topic) == {"ann": 1})
        request(cli, "DELETE", f"/v1/groups/{topic}/members/ann")
        assert await_line(ann, containing="lost the membership") == (
            "millrace: lost the membership (UNKNOWN_MEMBER_ID); rejoining\n"
        )
        produce(cli, topic, range(1))
        wait_until(lambda: lag(cli, topic) == 0)
        request(cli, "POST", f"/v1/groups/{topic}/members", {"topics": [topic], "member_id": "ann"})
        await_line(ann, containing="lost the membership (FENCED_MEMBER_EPOCH)")
        produce(cli, topic, range(1, 2))
        wait_until(lambda: lag(cli, topic) == 0)
        ann.send_signal(signal.SIGINT)
        assert numbers(ann.communicate()[0]) == [0, 1]


def test_a_member_that_is_removed_during_a_write_drops_the_rest_of_its_page(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(200), padding="x" * 1_000)
    with start_consumer(cli, topic, "ann", "-v", "--session-timeout-ms", "1000") as ann:
        await_line(ann, containing="/heartbeat")
        request(cli, "DELETE", f"/v1/groups/{topic}/members/ann")
        await_line(ann, containing="lost the membership")
        committed = committed_offsets(cli, topic)[0]
        taken = numbers(ann.communicate()[0])
    assert taken[-1] == 199
    again = taken.index(committed, committed + 1) if taken.count(committed) > 1 else committed
    assert taken == [*range(again), *range(committed, 200)]
    assert lag(cli, topic) == 0


def test_a_static_member_keeps_its_partitions_after_a_restart(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(4))
    words = ("consume", topic, "-g", topic, "--instance-id", "one", "-n", "2")
    read = numbers(cli.ok(*words).out)
    assert list(partition_counts(cli, topic).values()) == [4]
    read += numbers(cli.ok(*words).out)
    assert sorted(read) == [0, 1, 2, 3]
    assert len(cli.ok("groups", "rebalances", topic).lines) == 1


def test_a_second_member_with_the_same_instance_id_ends_the_first(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with cli.started("consume", topic, "-g", topic, "--instance-id", "one", "-f") as first:
        wait_until(lambda: list(partition_counts(cli, topic).values()) == [4])
        cli.ok("consume", topic, "-g", topic, "--instance-id", "one")
        assert first.wait() == 4
        assert "(FENCED_INSTANCE_ID)" in first.communicate()[1].decode()


def test_a_pattern_also_matches_topics_that_are_created_later(cli: Cli, topic: str) -> None:
    for name in ("a", "b"):
        cli.ok("produce", f"{topic}.{name}", stdin=b"1\n")
    done = cli.ok("consume", f"{topic}.a", f"{topic}.b", "-g", f"{topic}-1")
    assert sorted(record(line)["topic"] for line in done.lines) == [f"{topic}.a", f"{topic}.b"]
    with cli.started("consume", "--pattern", f"{topic}.*", "-g", f"{topic}-2", "-f", "-n", "3") as consumer:
        assert consumer.stdout is not None
        assert {record(consumer.stdout.readline())["value"] for _ in range(2)} == {1}
        cli.ok("produce", f"{topic}.c", stdin=b"2\n")
        last = record(consumer.stdout.readline())
        assert (last["topic"], last["value"]) == (f"{topic}.c", 2)
        assert consumer.wait() == 0
    assert len(cli.ok("consume", "--pattern", f"{topic}.*", "-g", f"{topic}-3").lines) == 3


def test_records_of_a_group_can_be_produced_unchanged(cli: Cli, topic: str) -> None:
    lines = (
        b'{"key":"k","value":{ "a":1.0},"headers":[{"name":"n","value":null}]}\n{"value":"AA==","encoding":"base64"}\n'
    )
    cli.ok("topics", "create", topic, "-p", "1")
    cli.ok("topics", "create", f"{topic}-copy", "-p", "1")
    cli.ok("produce", topic, "--format", "records", stdin=lines)
    done = cli.shell(f"{MILLRACE} consume {topic} -g {topic} | {MILLRACE} produce {topic}-copy --format records")
    assert done.code == 0, done.err
    assert cli.ok("consume", f"{topic}-copy").out == cli.ok("consume", topic).out


def test_each_record_is_one_line_even_if_its_json_contains_a_line_break(cli: Cli, topic: str) -> None:
    request(cli, "POST", f"/v1/topics/{topic}/records", {"value": 1})
    cli.ok("topics", "list")
    with_break = b'{"value":{"a":\n1}}'
    done = cli.shell(f"curl -sS --json '{with_break.decode()}' {cli.url}/v1/topics/{topic}/records")
    assert done.code == 0, done.err
    assert len(cli.ok("consume", topic, "-g", topic).lines) == 2
    values = cli.ok("consume", topic, "-g", f"{topic}-2", "--format", "values").lines
    assert sorted(map(json.dumps, map(json.loads, values))) == ["1", '{"a": 1}']


def test_a_terminal_shows_readable_lines_and_the_assignment(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2", "-c", "retention_ms=-1")
    records = b'{"partition":1,"key":"k","value":{"a":1},"timestamp_ms":1517363399650}\n'
    cli.ok("produce", topic, "--format", "records", stdin=records)
    code, shown = on_terminal(cli, "consume", topic, "--group", topic)
    assert code == 0
    assert shown.splitlines() == [
        f"millrace: assigned {topic} 0-1",
        f'{topic}/1/0  2018-01-31T01:49:59.650Z  k  {{"a":1}}',
    ]


def test_auto_offset_reset_decides_where_a_new_group_starts(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(3))
    latest = cli.ok("consume", topic, "-g", f"{topic}-latest", "--auto-offset-reset", "latest")
    assert (latest.out, committed_offsets(cli, f"{topic}-latest")) == (b"", {0: 3})
    none = cli("consume", topic, "-g", f"{topic}-none", "--auto-offset-reset", "none")
    assert (none.code, none.out) == (4, b"")
    assert none.err == (
        f"millrace: there is no committed offset in partition 0 of {topic} (NO_OFFSET_FOR_PARTITION); set the "
        f"offsets to start at: millrace groups reset {topic}-none {topic} --to earliest --execute\n"
    )
    cli.ok("groups", "reset", f"{topic}-none", topic, "--to", "-1", "--execute")
    assert numbers(cli.ok("consume", topic, "-g", f"{topic}-none", "--auto-offset-reset", "none").out) == [2]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["t", "--member-id", "m"], 2, "it needs --group"),
        (["t", "u"], 2, "name one topic, or read several with --group"),
        ([], 2, "name one topic"),
        (["--group", "g"], 2, "name topics, or give --pattern"),
        (["t", "--group", "g", "-o", "latest"], 2, "a group continues at its committed offsets"),
        (["t", "--group", "g", "-p", "0"], 2, "a group continues at its committed offsets"),
        (["nowhere", "--group", "g"], 3, "(UNKNOWN_TOPIC_OR_PARTITION)"),
        (["a topic", "--group", "g", "-f"], 4, "(INVALID_TOPIC_EXCEPTION)"),
        (["t", "--group", "a group", "-f"], 4, "(INVALID_GROUP_ID)"),
        (["t", "--group", "g", "-f", "--url", "http://127.0.0.1:9"], 5, "cannot reach http://127.0.0.1:9"),
    ],
)
def test_wrong_usage_is_refused(cli: Cli, words: list[str], code: int, message: str) -> None:
    done = cli("consume", *words)
    assert (done.code, done.out) == (code, b"")
    assert message in " ".join(done.err.replace("│", " ").split())


def test_the_curl_commands_of_verbose_have_the_same_effect(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(1))
    done = cli.ok("consume", topic, "-g", topic, "--instance-id", "it's", "-v", "-n", "1")
    lines = [line.replace("curl ", "curl --silent ", 1) for line in done.err.splitlines() if line.startswith("curl ")]
    poll = next(line for line in lines if "/poll" in line)
    cli.ok("topics", "list")
    request(cli, "DELETE", f"/v1/groups/{topic}/members/{poll.partition('/members/')[2].partition('/')[0]}")
    cli.ok("groups", "delete", topic, "--yes")
    answers = [json.loads(cli.shell(line).out) for line in lines if "/partitions" not in line]
    assert [answer["records"][0]["value"]["n"] for answer in answers if answer.get("records")] == [0]
    assert committed_offsets(cli, topic) != {}
    assert lag(cli, topic) == 0
