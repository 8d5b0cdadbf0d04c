"""`millrace consume --group`: who shares a topic, who takes over, and that only what is written is committed."""

from __future__ import annotations

import json
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.log.test_topics import on_terminal
from tests.cli.lossy import losing
from tests.cli.members import call, holdings, lag, numbers, offsets, produce, record, started, until
from tests.cli.running import MILLRACE, Cli, await_line, free_port, serving

if TYPE_CHECKING:
    from pathlib import Path

SESSION_MS = 1_500
PIPE_BYTES = 65_536


def test_two_consumers_share_a_topic_without_overlap_or_loss(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "4")
    with started(cli, topic, "ann", "--follow") as ann, started(cli, topic, "bob", "--follow") as bob:
        until(lambda: holdings(cli, topic) == {"ann": 2, "bob": 2})
        produce(cli, topic, range(400))
        until(lambda: lag(cli, topic) == 0)
        outputs = []
        for consumer in (ann, bob):
            consumer.send_signal(signal.SIGINT)
            outputs.append(consumer.communicate()[0])
    assert sorted(numbers(outputs[0]) + numbers(outputs[1])) == list(range(400))
    first, second = ({record(line)["partition"] for line in output.splitlines()} for output in outputs)
    assert (len(first), len(second), first & second) == (2, 2, set())


def test_who_is_killed_is_replaced_within_its_session_and_a_second(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "4")
    words = ("--follow", "--session-timeout-ms", str(SESSION_MS))
    with started(cli, topic, "ann", *words) as ann, started(cli, topic, "bob", *words) as bob:
        until(lambda: holdings(cli, topic) == {"ann": 2, "bob": 2})
        produce(cli, topic, range(100))
        until(lambda: lag(cli, topic) == 0)
        ann.kill()
        assert until(lambda: holdings(cli, topic) == {"bob": 4}) < SESSION_MS / 1_000 + 1
        produce(cli, topic, range(100, 200))
        until(lambda: lag(cli, topic) == 0)
        bob.send_signal(signal.SIGINT)
        taken = numbers(bob.communicate()[0])
        assert sorted(numbers(ann.communicate()[0]) + taken) == list(range(200))
        assert set(range(100, 200)) <= set(taken)


def test_what_is_written_and_not_committed_comes_again(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(200), padding="x" * 1_000)
    with started(cli, topic, "ann") as ann:
        assert ann.stdout is not None
        assert record(ann.stdout.readline())["offset"] == 0
        ann.kill()
        assert len(ann.stdout.read()) > 1_000
    assert offsets(cli, topic) == {0: 0}
    assert numbers(cli.ok("consume", topic, "-g", topic, "--member-id", "ann").out) == list(range(200))


def test_a_consumer_that_is_killed_again_and_again_loses_nothing(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "3")
    produce(cli, topic, range(4_000))
    rng = random.Random(7)
    written: dict[int, int] = {}
    seen: set[int] = set()
    for _ in range(6):
        with started(cli, topic, "ann") as ann:
            assert ann.stdout is not None
            output = b"".join(ann.stdout.readline() for _ in range(rng.randint(1, 900)))
            ann.kill()
            whole, _, _ = (output + ann.stdout.read()).rpartition(b"\n")
        seen |= set(numbers(whole))
        for line in whole.splitlines():
            written[record(line)["partition"]] = max(
                written.get(record(line)["partition"], 0), record(line)["offset"] + 1
            )
        for partition, committed in offsets(cli, topic).items():
            assert committed <= written.get(partition, 0)
    rest = numbers(cli.ok("consume", topic, "-g", topic, "--member-id", "ann").out)
    assert len(rest) < 4_000
    assert seen | set(rest) == set(range(4_000))
    assert lag(cli, topic) == 0


def test_count_is_exact_in_what_is_written_and_committed(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2")
    produce(cli, topic, range(700))
    read = []
    for count in (1, 3, 596):
        done = cli.ok("consume", topic, "-g", topic, "-n", str(count))
        assert len(done.lines) == count
        read += numbers(done.out)
        assert sum(offsets(cli, topic).values()) == len(read)
    done = cli.ok("consume", topic, "-g", topic, "-n", "1000")
    assert sorted(read + numbers(done.out)) == list(range(700))
    assert holdings(cli, topic) == {}


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_consumer_told_to_end_commits_what_it_has_written_and_leaves(
    cli: Cli, topic: str, sent: signal.Signals, code: int
) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(300), padding="x" * 1_000)
    with started(cli, topic, "ann", "--follow") as ann:
        assert ann.stdout is not None
        first = ann.stdout.readline()
        ann.send_signal(sent)
        began_s = time.monotonic()
        rest = ann.stdout.read()
        assert ann.wait() == code
        assert time.monotonic() - began_s < 2
    taken = numbers(first + rest)
    assert len(taken) < 300
    assert offsets(cli, topic) == {0: len(taken)}
    assert holdings(cli, topic) == {}


def test_ctrl_c_ends_a_consumer_whose_reader_sleeps(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(1), padding="x" * 3 * PIPE_BYTES)
    with started(cli, topic, "ann", "-v", "--session-timeout-ms", "1000") as ann:
        await_line(ann, containing="/heartbeat")
        ann.send_signal(signal.SIGINT)
        assert ann.wait() == 130
    assert holdings(cli, topic) == {}
    assert lag(cli, topic) == 1


def test_a_reader_that_has_enough_ends_its_consumer(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(600), padding="x" * 500)
    done = cli.shell(f"{MILLRACE} consume {topic} --group {topic} --follow | head -1")
    assert (done.code, done.err, len(done.lines)) == (0, "", 1)
    assert holdings(cli, topic) == {}


def test_a_consumer_with_nothing_to_write_notes_that_its_reader_has_gone(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with started(cli, topic, "ann", "--follow", "--session-timeout-ms", "1000") as ann:
        until(lambda: holdings(cli, topic) == {"ann": 4})
        assert ann.stdout is not None
        ann.stdout.close()
        assert ann.wait() == 0
    assert holdings(cli, topic) == {}


def test_nothing_is_committed_that_could_not_be_written(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(10))
    done = cli.shell(f"{MILLRACE} consume {topic} --group {topic} > /dev/full")
    assert (done.code, done.err) == (1, "millrace: cannot write the output: No space left on device\n")
    assert lag(cli, topic) == 10
    assert holdings(cli, topic) == {}


def test_a_consumer_whose_reader_sleeps_stays_a_member(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(200), padding="x" * 1_000)
    with started(cli, topic, "ann", "-v", "-n", "200", "--session-timeout-ms", "1000") as ann:
        began_s = time.monotonic()
        while time.monotonic() - began_s < 2.5:
            await_line(ann, containing="/heartbeat")
        committed = offsets(cli, topic)[0]
        assert 40 < committed < 70  # as much as a pipe takes
        (member,) = call(cli, "GET", f"/v1/groups/{topic}")["members"]
        assert (member["member_id"], member["member_epoch"]) == ("ann", 1)
        assert numbers(ann.communicate()[0]) == list(range(200))
    assert len(cli.ok("groups", "rebalances", topic).lines) == 2
    assert lag(cli, topic) == 0


def test_what_is_revoked_while_the_reader_sleeps_is_given_up_at_once(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "4")
    produce(cli, topic, range(400), padding="x" * 1_000)
    words = ("-v", "--session-timeout-ms", "1000")
    with started(cli, topic, "ann", *words) as ann:
        await_line(ann, containing="/heartbeat")
        with started(cli, topic, "bob", *words) as bob:
            assert await_line(ann, containing="millrace: revoked").startswith(f"millrace: revoked {topic} ")
            until(lambda: holdings(cli, topic) == {"ann": 2, "bob": 2})
            outputs = []
            for consumer in (ann, bob):
                consumer.send_signal(signal.SIGINT)
                outputs.append(consumer.communicate()[0])
    outputs.append(cli.ok("consume", topic, "-g", topic).out)
    assert sorted(number for output in outputs for number in numbers(output)) == list(range(400))


def test_without_follow_it_ends_when_the_group_has_all_that_was_there(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2")
    with started(cli, topic, "ann", "--follow") as ann:
        until(lambda: holdings(cli, topic) == {"ann": 2})
        with started(cli, topic, "bob", "--follow") as holds_a_place:
            until(lambda: holdings(cli, topic) == {"ann": 1, "bob": 1})
            produce(cli, topic, range(300), padding="x" * 1_000)
            with started(cli, topic, "cy", "-v") as cy:
                for _ in range(3):
                    await_line(cy, containing=f"{topic}/offsets")
                assert cy.poll() is None
                for sleeper in (ann, holds_a_place):
                    sleeper.send_signal(signal.SIGINT)
                outputs = [consumer.communicate()[0] for consumer in (ann, holds_a_place, cy)]
                assert cy.returncode == 0
    assert sorted(number for output in outputs for number in numbers(output)) == list(range(300))
    assert lag(cli, topic) == 0


def test_it_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    port = str(free_port())
    cli = Cli(tmp_path, f"http://127.0.0.1:{port}")
    with serving(tmp_path, "--port", port) as server:
        produce(cli, "t", range(1))
        with started(cli, "t", "ann", "-f", "-n", "2") as consumer:
            assert consumer.stdout is not None
            assert numbers(consumer.stdout.readline()) == [0]
            server.process.kill()
            await_line(consumer, containing="trying again")
            with serving(tmp_path, "--port", port):
                produce(cli, "t", range(1, 2))
                assert numbers(consumer.communicate()[0]) == [1]
                assert consumer.returncode == 0
                assert lag(cli, "t") == 0
                assert holdings(cli, "t") == {}


def test_lost_answers_neither_lose_nor_repeat_a_record(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "3")
    produce(cli, topic, range(2_500))
    with losing(cli.url, lambda number: number > 1 and number % 3 == 0) as url:
        done = cli.ok("consume", topic, "-g", topic, "-f", "-n", "2500", "--url", url)
    assert sorted(numbers(done.out)) == list(range(2_500))
    assert "trying again" in done.err
    assert lag(cli, topic) == 0


def test_who_is_no_member_any_more_joins_again(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    with started(cli, topic, "ann", "--follow") as ann:
        until(lambda: holdings(cli, topic) == {"ann": 1})
        call(cli, "DELETE", f"/v1/groups/{topic}/members/ann")
        assert await_line(ann, containing="lost the membership") == (
            "millrace: lost the membership (UNKNOWN_MEMBER_ID); joining again\n"
        )
        produce(cli, topic, range(1))
        until(lambda: lag(cli, topic) == 0)
        call(cli, "POST", f"/v1/groups/{topic}/members", {"topics": [topic], "member_id": "ann"})
        await_line(ann, containing="lost the membership (FENCED_MEMBER_EPOCH)")
        produce(cli, topic, range(1, 2))
        until(lambda: lag(cli, topic) == 0)
        ann.send_signal(signal.SIGINT)
        assert numbers(ann.communicate()[0]) == [0, 1]


def test_a_member_that_is_removed_while_its_reader_sleeps_writes_no_more_of_that_page(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(200), padding="x" * 1_000)
    with started(cli, topic, "ann", "-v", "--session-timeout-ms", "1000") as ann:
        await_line(ann, containing="/heartbeat")
        call(cli, "DELETE", f"/v1/groups/{topic}/members/ann")
        await_line(ann, containing="lost the membership")
        committed = offsets(cli, topic)[0]
        taken = numbers(ann.communicate()[0])
    assert taken[-1] == 199
    again = taken.index(committed, committed + 1) if taken.count(committed) > 1 else committed
    assert taken == [*range(again), *range(committed, 200)]
    assert lag(cli, topic) == 0


def test_a_static_member_keeps_its_place_through_a_restart(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(4))
    words = ("consume", topic, "-g", topic, "--instance-id", "one", "-n", "2")
    read = numbers(cli.ok(*words).out)
    assert list(holdings(cli, topic).values()) == [4]
    read += numbers(cli.ok(*words).out)
    assert sorted(read) == [0, 1, 2, 3]
    assert len(cli.ok("groups", "rebalances", topic).lines) == 1


def test_a_second_holder_of_an_instance_id_stops_the_first(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with cli.started("consume", topic, "-g", topic, "--instance-id", "one", "-f") as first:
        until(lambda: list(holdings(cli, topic).values()) == [4])
        cli.ok("consume", topic, "-g", topic, "--instance-id", "one")
        assert first.wait() == 4
        assert "(FENCED_INSTANCE_ID)" in first.communicate()[1].decode()


def test_topics_by_name_and_by_pattern_those_created_later_too(cli: Cli, topic: str) -> None:
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


def test_what_a_group_reads_may_be_produced_again(cli: Cli, topic: str) -> None:
    lines = (
        b'{"key":"k","value":{ "a":1.0},"headers":[{"name":"n","value":null}]}\n{"value":"AA==","encoding":"base64"}\n'
    )
    cli.ok("topics", "create", topic, "-p", "1")
    cli.ok("topics", "create", f"{topic}-copy", "-p", "1")
    cli.ok("produce", topic, "--format", "records", stdin=lines)
    done = cli.shell(f"{MILLRACE} consume {topic} -g {topic} | {MILLRACE} produce {topic}-copy --format records")
    assert done.code == 0, done.err
    assert cli.ok("consume", f"{topic}-copy").out == cli.ok("consume", topic).out


def test_each_record_is_one_line_however_it_was_sent(cli: Cli, topic: str) -> None:
    call(cli, "POST", f"/v1/topics/{topic}/records", {"value": 1})
    cli.ok("topics", "list")
    with_break = b'{"value":{"a":\n1}}'
    done = cli.shell(f"curl -sS --json '{with_break.decode()}' {cli.url}/v1/topics/{topic}/records")
    assert done.code == 0, done.err
    assert len(cli.ok("consume", topic, "-g", topic).lines) == 2
    values = cli.ok("consume", topic, "-g", f"{topic}-2", "--format", "values").lines
    assert sorted(map(json.dumps, map(json.loads, values))) == ["1", '{"a": 1}']


def test_a_terminal_gets_readable_lines_and_learns_of_its_partitions(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2", "-c", "retention_ms=-1")
    records = b'{"partition":1,"key":"k","value":{"a":1},"timestamp_ms":1517363399650}\n'
    cli.ok("produce", topic, "--format", "records", stdin=records)
    code, shown = on_terminal(cli, "consume", topic, "--group", topic)
    assert code == 0
    assert shown.splitlines() == [
        f"millrace: assigned {topic} 0-1",
        f'{topic}/1/0  2018-01-31T01:49:59.650Z  k  {{"a":1}}',
    ]


def test_where_a_new_group_begins(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    produce(cli, topic, range(3))
    latest = cli.ok("consume", topic, "-g", f"{topic}-latest", "--auto-offset-reset", "latest")
    assert (latest.out, offsets(cli, f"{topic}-latest")) == (b"", {0: 3})
    none = cli("consume", topic, "-g", f"{topic}-none", "--auto-offset-reset", "none")
    assert (none.code, none.out) == (4, b"")
    assert none.err == (
        f"millrace: there is no committed offset in partition 0 of {topic} (NO_OFFSET_FOR_PARTITION); say where to "
        f"begin: millrace groups reset {topic}-none {topic} --to earliest --execute\n"
    )
    cli.ok("groups", "reset", f"{topic}-none", topic, "--to", "-1", "--execute")
    assert numbers(cli.ok("consume", topic, "-g", f"{topic}-none", "--auto-offset-reset", "none").out) == [2]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["t", "--member-id", "m"], 2, "it needs --group"),
        (["t", "u"], 2, "name one topic, or read several with --group"),
        ([], 2, "name one topic"),
        (["--group", "g"], 2, "name topics, or give --pattern"),
        (["t", "--group", "g", "-o", "latest"], 2, "a group goes on where it stands"),
        (["t", "--group", "g", "-p", "0"], 2, "a group goes on where it stands"),
        (["nowhere", "--group", "g"], 3, "(UNKNOWN_TOPIC_OR_PARTITION)"),
        (["a topic", "--group", "g", "-f"], 4, "(INVALID_TOPIC_EXCEPTION)"),
        (["t", "--group", "a group", "-f"], 4, "(INVALID_GROUP_ID)"),
        (["t", "--group", "g", "-f", "--url", "http://127.0.0.1:9"], 5, "cannot reach http://127.0.0.1:9"),
    ],
)
def test_wrong_uses_are_refused(cli: Cli, words: list[str], code: int, said: str) -> None:
    done = cli("consume", *words)
    assert (done.code, done.out) == (code, b"")
    assert said in " ".join(done.err.replace("│", " ").split())


def test_the_curl_lines_of_verbose_do_the_same(cli: Cli, topic: str) -> None:
    produce(cli, topic, range(1))
    done = cli.ok("consume", topic, "-g", topic, "--instance-id", "it's", "-v", "-n", "1")
    lines = [line.replace("curl ", "curl --silent ", 1) for line in done.err.splitlines() if line.startswith("curl ")]
    poll = next(line for line in lines if "/poll" in line)
    cli.ok("topics", "list")
    call(cli, "DELETE", f"/v1/groups/{topic}/members/{poll.partition('/members/')[2].partition('/')[0]}")
    cli.ok("groups", "delete", topic, "--yes")
    answers = [json.loads(cli.shell(line).out) for line in lines if "/partitions" not in line]
    assert [answer["records"][0]["value"]["n"] for answer in answers if answer.get("records")] == [0]
    assert offsets(cli, topic) != {}
    assert lag(cli, topic) == 0
