"""`millrace queue work`: outcomes, signals, outages and locks."""

from __future__ import annotations

import gzip
import json
import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.lossy_proxy import lossy_proxy
from tests.cli.processes import DEADLINE_S, Cli, await_line, free_port, serving, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

WEBHOOKS = Path(__file__).resolve().parents[2] / "data" / "github-webhooks.ndjson.gz"


def described(cli: Cli, queue: str) -> dict[str, Any]:
    """Return a queue's description, with its counts beside its settings."""
    found: dict[str, Any] = json.loads(cli.ok("queues", "describe", queue).out)
    found |= found["counts"]
    return found


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process. Return its exit code."""
    return process.wait(DEADLINE_S)


def test_a_command_gets_the_value_on_stdin_and_the_rest_as_variables(cli: Cli, queue: str, tmp_path: Path) -> None:
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


def test_exit_code_75_releases_with_a_delay_and_other_codes_at_once(cli: Cli, queue: str) -> None:
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


def test_a_failing_command_is_run_again_after_a_pause(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--max-delivery-count", "3")
    cli.ok("produce", queue, stdin=b"0\n")
    script = "cut -d ' ' -f 1 /proc/uptime >> times; exit 1"

    cli.ok("queue", "work", queue, "--until-empty", "--", "sh", "-c", script)

    first_s, second_s, third_s = map(float, (cli.folder / "times").read_text().split())
    assert second_s - first_s > 0.08
    assert third_s - second_s > 0.18
    assert described(cli, queue)["archived"] == 1


def test_a_signal_ends_the_pause_after_a_failed_command(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--max-delivery-count", "30")
    cli.ok("produce", queue, stdin=b"0\n")
    with cli.started("queue", "work", queue, "--", "sh", "-c", "exit 1") as worker:
        wait_until(lambda: described(cli, queue)["acquired"] == 1)
        worker.send_signal(signal.SIGTERM)
        assert ended(worker) == 0
    assert described(cli, queue)["available"] == 1


def test_a_command_that_cannot_be_run_ends_the_worker_and_releases_the_record(cli: Cli, queue: str) -> None:
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
def test_the_first_signal_lets_running_commands_finish(cli: Cli, queue: str, sign: signal.Signals, code: int) -> None:
    cli.ok("produce", queue, stdin=b"1\n2\n3\n")
    script = "echo begun >&2; until [ -e go ]; do sleep 0.01; done"
    with cli.started("queue", "work", queue, "--", "sh", "-c", script) as worker:
        await_line(worker, containing="begun")
        worker.send_signal(sign)
        await_line(worker, containing="finishing 1 command;")
        (cli.folder / "go").touch()
        assert ended(worker) == code
    state = described(cli, queue)
    assert (state["accepted"], state["available"], state["acquired"]) == (1, 2, 0)


def test_the_second_signal_ends_the_commands_and_releases_their_records(cli: Cli, queue: str) -> None:
    cli.ok("produce", queue, stdin=b"1\n2\n3\n")
    script = "echo begun >&2; exec sleep 1000"
    with cli.started("queue", "work", queue, "--concurrency", "2", "--", "sh", "-c", script) as worker:
        await_line(worker, containing="begun")
        await_line(worker, containing="begun")
        worker.send_signal(signal.SIGINT)
        await_line(worker, containing="finishing 2 commands")
        worker.send_signal(signal.SIGINT)
        assert ended(worker) == 130
    state = described(cli, queue)
    assert (state["accepted"], state["available"], state["acquired"]) == (0, 3, 0)


def test_the_third_signal_kills_the_commands(cli: Cli, queue: str) -> None:
    cli.ok("produce", queue, stdin=b"1\n2\n")
    script = "trap '' TERM; echo begun >&2; for each in $(seq 400); do sleep 0.05; done"
    with cli.started("queue", "work", queue, "--", "sh", "-c", script) as worker:
        await_line(worker, containing="begun")
        worker.send_signal(signal.SIGINT)
        await_line(worker, containing="finishing 1 command;")
        worker.send_signal(signal.SIGINT)
        await_line(worker, containing="press Ctrl-C again to kill them")
        worker.send_signal(signal.SIGINT)
        assert ended(worker) == 130
        assert worker.stderr is not None
        assert worker.stderr.read().decode().splitlines() == [
            "millrace: offset 0 of partition 0: ended by signal 9 on delivery 1; released",
            "millrace: 0 accepted, 1 released",
        ]
    state = described(cli, queue)
    assert (state["accepted"], state["available"], state["acquired"]) == (0, 2, 0)


@dataclass
class OrphanedWorker:
    """A worker whose command has ended while its server is stopped."""

    cli: Cli
    worker: subprocess.Popen[bytes]

    @contextmanager
    def server_restarted(self) -> Iterator[None]:
        """Start the server again."""
        with serving(self.cli.folder, "--port", self.cli.url.rpartition(":")[2]):
            yield


@contextmanager
def orphaned(folder: Path, lock_duration_ms: int) -> Iterator[OrphanedWorker]:
    """Stop the server while a command runs, and let the command end."""
    port = free_port()
    cli = Cli(folder, f"http://127.0.0.1:{port}")
    script = "echo begun >&2; until [ -e go ]; do sleep 0.01; done"
    with ExitStack() as stack:
        with serving(folder, "--port", str(port)):
            cli.ok("queues", "create", "jobs", "jobs", "--lock-duration-ms", str(lock_duration_ms))
            cli.ok("produce", "jobs", stdin=b"1\n")
            worker = stack.enter_context(cli.started("queue", "work", "jobs", "-v", "--", "sh", "-c", script))
            await_line(worker, containing="begun")
        (folder / "go").touch()
        await_line(worker, containing="trying again")
        yield OrphanedWorker(cli, worker)


def await_accepted(cli: Cli, queue: str) -> None:
    wait_until(lambda: described(cli, queue)["accepted"] == 1)


def await_attempts(worker: subprocess.Popen[bytes], number: int) -> None:
    """Wait until the worker has sent a result this many times: after 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 … seconds."""
    for _ in range(number):
        await_line(worker, containing='"outcome": "accept"')


def test_a_worker_retries_while_the_server_is_unavailable_for_longer_than_a_lock(tmp_path: Path) -> None:
    with orphaned(tmp_path, 1_000) as orphan:
        await_attempts(orphan.worker, 4)  # the first one came before
        with orphan.server_restarted():
            await_line(orphan.worker, containing="too late for delivery")
            await_line(orphan.worker, containing="begun")
            await_accepted(orphan.cli, "jobs")
            orphan.worker.send_signal(signal.SIGTERM)
            assert ended(orphan.worker) == 0


def test_the_lock_of_an_unacknowledged_result_is_renewed(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--lock-duration-ms", "6000")
    cli.ok("produce", queue, stdin=b"1\n")
    script = "echo begun >&2; until [ -e go ]; do sleep 0.01; done"
    outage = Event()
    with (
        lossy_proxy(cli.url, lambda _: False, outage.is_set) as url,
        cli.started("queue", "work", queue, "-v", "--url", url, "--", "sh", "-c", script) as worker,
    ):
        await_line(worker, containing="begun")
        outage.set()
        (cli.folder / "go").touch()
        await_attempts(worker, 6)  # the next attempt is due after the end of the lock, a renewal much earlier
        outage.clear()
        await_accepted(cli, queue)
        worker.send_signal(signal.SIGTERM)
        assert ended(worker) == 0
        assert await_line(worker, containing=" accepted") == "millrace: 1 accepted, 0 released\n"


def test_a_signal_while_the_server_is_unavailable_limits_the_retries(tmp_path: Path) -> None:
    with orphaned(tmp_path, 1_000) as orphan:
        orphan.worker.send_signal(signal.SIGINT)
        await_line(
            orphan.worker, containing="waiting for the server to take 1 result; press Ctrl-C again to exit without"
        )
        orphan.worker.send_signal(signal.SIGINT)
        assert ended(orphan.worker) == 5
        await_line(orphan.worker, containing="0 accepted, 0 released, 1 not confirmed")


def test_a_worker_of_a_paused_queue_prints_that_once(cli: Cli, queue: str) -> None:
    cli.ok("queues", "pause", queue)
    cli.ok("produce", queue, stdin=b"1\n")
    with cli.started("queue", "work", queue, "--max-wait-ms", "100", "--", "sh", "-c", "echo begun >&2") as worker:
        message = await_line(worker, containing="paused")
        assert message == f"millrace: the queue is paused; millrace queues resume {queue}\n"
        cli.ok("queues", "resume", queue)
        assert worker.stderr is not None
        assert worker.stderr.readline() == b"begun\n"
        cli.ok("queues", "pause", queue)
        await_line(worker, containing="paused")


def test_a_lowered_lock_duration_does_not_run_a_command_twice(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--lock-duration-ms", "3000")
    cli.ok("produce", queue, stdin=b"1\n")
    script = "echo begun >> runs; echo begun >&2; sleep 5"
    with cli.started("queue", "work", queue, "--until-empty", "--", "sh", "-c", script) as worker:
        await_line(worker, containing="begun")
        cli.ok("queues", "alter", queue, "--lock-duration-ms", "1000")
        with cli.started("queue", "work", queue, "--", "sh", "-c", script):
            assert ended(worker) == 0
    assert described(cli, queue)["accepted"] == 1
    assert (cli.folder / "runs").read_text() == "begun\n"


def test_locks_are_renewed_while_a_command_runs(cli: Cli, queue: str) -> None:
    cli.ok("queues", "alter", queue, "--lock-duration-ms", "1000")
    cli.ok("produce", queue, stdin=b"1\n")
    done = cli.ok("queue", "work", queue, "--until-empty", "--", "sleep", "2")
    assert done.err == "millrace: 1 accepted, 0 released\n"


def test_only_records_with_failing_commands_reach_the_dead_letter_topic(cli: Cli, queue: str) -> None:
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


def test_a_signal_while_the_answer_of_an_acquire_is_on_its_way_leaves_the_records_to_the_end_of_their_locks(
    cli: Cli, queue: str
) -> None:
    cli.ok("queues", "alter", queue, "--lock-duration-ms", "1000")
    cli.ok("produce", queue, stdin=b"1\n2\n")
    acquired, ended_worker = Event(), Event()

    def hold_back(number: int) -> bool:
        if number == 0:  # the description of the queue
            return False
        acquired.set()
        return ended_worker.wait(DEADLINE_S)

    with (
        lossy_proxy(cli.url, hold_back) as url,
        cli.started("queue", "work", queue, "-c", "2", "--url", url, "--", "false") as worker,
    ):
        assert acquired.wait(DEADLINE_S)
        worker.send_signal(signal.SIGTERM)
        assert ended(worker) == 0
        assert await_line(worker, containing=" accepted") == "millrace: 0 accepted, 0 released\n"
        ended_worker.set()

    wait_until(lambda: described(cli, queue)["available"] == 2)
    script = 'test "$MILLRACE_DELIVERY_COUNT" = 2'
    done = cli.ok("queue", "work", queue, "--until-empty", "--", "sh", "-c", script)
    assert done.err == "millrace: 2 accepted, 0 released\n"
