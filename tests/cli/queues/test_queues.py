"""`millrace queues` and `millrace queue work`."""

from __future__ import annotations

import gzip
import json
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.running import DEADLINE_S, Cli, await_line, free_port, serving

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

WEBHOOKS = Path(__file__).resolve().parents[2] / "data" / "github-webhooks.ndjson.gz"


@pytest.fixture
def queue(cli: Cli, topic: str) -> str:
    """A queue over a topic of its own, both of one name."""
    cli.ok("topics", "create", topic, "-p", "1")
    cli.ok("queues", "create", topic, topic, "--max-delivery-count", "2", "--dead-letter-topic", f"{topic}-dead")
    return topic


def described(cli: Cli, queue: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli.ok("queues", "describe", queue).out)
    found |= found["counts"]
    return found


def test_a_queue_is_created_altered_listed_purged_and_deleted(cli: Cli, queue: str) -> None:
    assert cli.ok("queues", "create", queue, queue).err == f"millrace: {queue} is there already\n"
    assert cli("queues", "create", queue, "other").code == 4
    typo = cli.ok("queues", "create", f"{queue}-audit", f"{queue}-typo", "--dead-letter-topic", f"{queue}-dead")
    assert typo.err == f"millrace: created {queue}-audit and the topic {queue}-typo, which was not there\n"
    assert json.loads(cli.ok("queues", "pause", queue).out)["paused"] is True
    changed = json.loads(cli.ok("queues", "alter", queue, "--dead-letter-topic", "").out)
    assert (changed["paused"], changed["dead_letter_topic"]) == (True, None)
    assert "has no dead_letter_topic" in cli.ok("queues", "redrive", queue).err
    assert cli("queues", "alter", queue).code == 2
    assert queue in [json.loads(line)["name"] for line in cli.ok("queues", "list").lines]
    cli.ok("produce", queue, stdin=b"1\n2\n")
    assert json.loads(cli.ok("queues", "purge", queue, "--yes").out) == {"purged": 2}
    assert cli("queues", "delete", queue).code == 2
    cli.ok("queues", "delete", queue, "--yes")
    assert cli("queues", "describe", queue).code == 3


def test_a_command_gets_the_value_and_the_rest_in_its_environment(cli: Cli, queue: str, tmp_path: Path) -> None:
    record = '{"value":{"a": 1.50,"é":null},"key":"k","headers":{"n":"v"}}'
    cli.ok("produce", queue, "--format", "records", stdin=record.encode())
    script = "cat > value; env | grep ^MILLRACE_ > variables"
    cli.ok("queue", "work", queue, "--until-empty", "--", "sh", "-c", script)

    variables = dict(line.split("=", 1) for line in (tmp_path / "variables").read_text().splitlines())
    assert (tmp_path / "value").read_text() == '{"a": 1.50,"é":null}'
    names = ("QUEUE", "TOPIC", "PARTITION", "OFFSET", "KEY", "VALUE_ENCODING", "DELIVERY_COUNT")
    assert [variables[f"MILLRACE_{name}"] for name in names] == [queue, queue, "0", "0", "k", "json", "1"]
    assert json.loads(variables["MILLRACE_HEADERS"]) == [{"name": "n", "value": "v"}]
    assert described(cli, queue)["accepted"] == 1


def test_exit_code_75_releases_for_later_and_others_at_once(cli: Cli, queue: str) -> None:
    cli.ok("produce", queue, stdin=b"0\n1\n2\n")
    script = "exit $((MILLRACE_OFFSET == 1 ? 75 : MILLRACE_OFFSET == 2 ? 9 : 0))"
    done = cli.ok("queue", "work", queue, "--until-empty", "--backoff-ms", "600000", "--", "sh", "-c", script)
    assert sorted(done.err.splitlines()) == [
        "millrace: 1 accepted, 3 released",
        "millrace: offset 2 of partition 0: exit code 9 on delivery 1; released",
        "millrace: offset 2 of partition 0: exit code 9 on delivery 2; released",
    ]
    state = described(cli, queue)
    assert (state["accepted"], state["delayed"], state["archived"]) == (1, 1, 1)


def test_a_command_that_cannot_be_run_ends_the_work_and_gives_the_record_back(cli: Cli, queue: str) -> None:
    cli.ok("produce", queue, stdin=b"1\n")
    (cli.folder / "script").write_text("#!/nowhere/nothing\n")
    (cli.folder / "script").chmod(0o755)
    done = cli("queue", "work", queue, "--", "./script")
    assert done.code == 1
    assert "cannot run ./script: No such file" in done.err
    assert described(cli, queue)["available"] == 1
    done = cli("queue", "work", queue, "--", "/nowhere/nothing")
    assert (done.code, done.err) == (1, "millrace: cannot run /nowhere/nothing: there is no such command\n")
    assert cli("queue", "work", "nothing", "--", "true").code == 3


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_work_that_is_ended_finishes_what_it_has_begun(cli: Cli, queue: str, sign: signal.Signals, code: int) -> None:
    cli.ok("produce", queue, stdin=b"1\n2\n3\n")
    script = "echo begun >&2; until [ -e go ]; do sleep 0.01; done"
    with cli.started("queue", "work", queue, "--", "sh", "-c", script) as working:
        await_line(working, containing="begun")
        working.send_signal(sign)
        await_line(working, containing="finishing 1 command;")
        (cli.folder / "go").touch()
        assert ended(working) == code
    state = described(cli, queue)
    assert (state["accepted"], state["available"], state["acquired"]) == (1, 2, 0)


def test_work_that_is_ended_twice_ends_its_commands_and_gives_their_records_back(cli: Cli, queue: str) -> None:
    cli.ok("produce", queue, stdin=b"1\n2\n3\n")
    script = "echo begun >&2; exec sleep 1000"
    with cli.started("queue", "work", queue, "--concurrency", "2", "--", "sh", "-c", script) as working:
        await_line(working, containing="begun")
        await_line(working, containing="begun")
        working.send_signal(signal.SIGINT)
        await_line(working, containing="finishing 2 commands")
        working.send_signal(signal.SIGINT)
        assert ended(working) == 130
    state = described(cli, queue)
    assert (state["accepted"], state["available"], state["acquired"]) == (0, 3, 0)


def test_work_that_is_ended_three_times_kills_commands_that_do_not_end(cli: Cli, queue: str) -> None:
    cli.ok("produce", queue, stdin=b"1\n2\n")
    script = "trap '' TERM; echo begun >&2; for each in $(seq 400); do sleep 0.05; done"
    with cli.started("queue", "work", queue, "--", "sh", "-c", script) as working:
        await_line(working, containing="begun")
        working.send_signal(signal.SIGINT)
        await_line(working, containing="finishing 1 command;")
        working.send_signal(signal.SIGINT)
        await_line(working, containing="Ctrl-C again kills them")
        working.send_signal(signal.SIGINT)
        assert ended(working) == 130
        assert working.stderr is not None
        assert working.stderr.read().decode().splitlines() == [
            "millrace: offset 0 of partition 0: ended by signal 9 on delivery 1; released",
            "millrace: 0 accepted, 1 released",
        ]
    state = described(cli, queue)
    assert (state["accepted"], state["available"], state["acquired"]) == (0, 2, 0)


@dataclass
class Orphan:
    """A worker that has done a record's work while its server is away."""

    cli: Cli
    working: subprocess.Popen[bytes]

    @contextmanager
    def adopted(self) -> Iterator[None]:
        """Start the server again."""
        with serving(self.cli.folder, "--port", self.cli.url.rpartition(":")[2]):
            yield


@contextmanager
def orphaned(folder: Path, lock_duration_ms: int) -> Iterator[Orphan]:
    port = free_port()
    cli = Cli(folder, f"http://127.0.0.1:{port}")
    script = "echo begun >&2; until [ -e go ]; do sleep 0.01; done"
    with ExitStack() as stack:
        with serving(folder, "--port", str(port)):
            cli.ok("queues", "create", "jobs", "jobs", "--lock-duration-ms", str(lock_duration_ms))
            cli.ok("produce", "jobs", stdin=b"1\n")
            working = stack.enter_context(cli.started("queue", "work", "jobs", "--", "sh", "-c", script))
            await_line(working, containing="begun")
        (folder / "go").touch()
        await_line(working, containing="trying again")
        yield Orphan(cli, working)


def await_accepted(cli: Cli) -> None:
    while described(cli, "jobs")["accepted"] == 0:
        time.sleep(0.05)


def test_work_waits_for_a_server_that_is_away_for_longer_than_a_lock(tmp_path: Path) -> None:
    with orphaned(tmp_path, 1_000) as orphan:
        time.sleep(1.2)
        with orphan.adopted():
            await_line(orphan.working, containing="too late for delivery")
            await_line(orphan.working, containing="begun")
            await_accepted(orphan.cli)
            orphan.working.send_signal(signal.SIGTERM)
            assert ended(orphan.working) == 0


def test_the_lock_of_a_result_that_waits_for_the_server_is_kept(tmp_path: Path) -> None:
    with orphaned(tmp_path, 6_000) as orphan:
        time.sleep(2.8)  # the next try is when the lock would have passed, and a renewal much nearer
        with orphan.adopted():
            await_accepted(orphan.cli)
            orphan.working.send_signal(signal.SIGTERM)
            assert ended(orphan.working) == 0
            assert await_line(orphan.working, containing=" accepted") == "millrace: 1 accepted, 0 released\n"


def test_work_that_is_ended_while_the_server_is_away_says_what_it_waits_for(tmp_path: Path) -> None:
    with orphaned(tmp_path, 1_000) as orphan:
        orphan.working.send_signal(signal.SIGINT)
        await_line(orphan.working, containing="waiting for the server to take 1 result; Ctrl-C again ends without")
        orphan.working.send_signal(signal.SIGINT)
        assert ended(orphan.working) == 5
        await_line(orphan.working, containing="0 accepted, 0 released, 1 not confirmed")


def test_work_on_a_paused_queue_says_so_once(cli: Cli, queue: str) -> None:
    cli.ok("queues", "pause", queue)
    cli.ok("produce", queue, stdin=b"1\n")
    with cli.started("queue", "work", queue, "--max-wait-ms", "100", "--", "sh", "-c", "echo begun >&2") as working:
        told = await_line(working, containing="paused")
        assert told == f"millrace: the queue is paused; millrace queues resume {queue}\n"
        cli.ok("queues", "resume", queue)
        assert working.stderr is not None
        assert working.stderr.readline() == b"begun\n"
        cli.ok("queues", "pause", queue)
        await_line(working, containing="paused")


def test_a_lock_duration_that_is_lowered_meanwhile_makes_no_command_run_twice(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--lock-duration-ms", "3000")
    cli.ok("produce", queue, stdin=b"1\n")
    script = "echo begun >> runs; echo begun >&2; sleep 5"
    with cli.started("queue", "work", queue, "--until-empty", "--", "sh", "-c", script) as working:
        await_line(working, containing="begun")
        cli.ok("queues", "alter", queue, "--lock-duration-ms", "1000")
        with cli.started("queue", "work", queue, "--", "sh", "-c", script):
            assert ended(working) == 0
    assert described(cli, queue)["accepted"] == 1
    assert (cli.folder / "runs").read_text() == "begun\n"


def test_locks_are_renewed_while_a_command_runs(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--lock-duration-ms", "1000")
    cli.ok("produce", queue, stdin=b"1\n")
    done = cli.ok("queue", "work", queue, "--until-empty", "--", "sleep", "2")
    assert done.err == "millrace: 1 accepted, 0 released\n"


def ended(process: subprocess.Popen[bytes]) -> int:
    return process.wait(DEADLINE_S)


def test_webhooks_that_a_command_fails_on_end_in_the_dead_letter_topic_and_no_others(cli: Cli, queue: str) -> None:
    lines = gzip.decompress(WEBHOOKS.read_bytes()).splitlines()
    cli.ok("produce", queue, "--key", "/event", stdin=b"\n".join(lines) + b"\n")
    script = "cat > /dev/null; exit $((MILLRACE_OFFSET % 10 == 9))"

    done = cli.ok("queue", "work", queue, "--until-empty", "--concurrency", "8", "--", "sh", "-c", script)

    failing = {number for number in range(len(lines)) if number % 10 == 9}
    *failures, summary = done.err.splitlines()
    assert summary == f"millrace: {len(lines) - len(failing)} accepted, {2 * len(failing)} released"
    assert len(failures) == 2 * len(failing)
    records = [json.loads(line) for line in cli.ok("consume", f"{queue}-dead").lines]
    offsets = [
        int(header["value"])
        for record in records
        for header in record["headers"]
        if header["name"] == "__dlq.errors.offset"
    ]
    assert sorted(offsets) == sorted(failing)
    assert [record["value"] for record in records] == [json.loads(lines[offset]) for offset in offsets]
    assert described(cli, queue)["accepted"] == len(lines) - len(failing)
    plan = json.loads(cli.ok("queues", "redrive", queue).out)
    assert (plan["records"], plan["dry_run"]) == (len(failing), True)
    assert json.loads(cli.ok("queues", "redrive", queue, "--execute").out)["records"] == len(failing)
    assert described(cli, queue)["available"] == len(failing)
