"""Acquires records, runs a command for each, and tells the queue what became of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import msgspec

from app.cli.client import Client, ServerRefused, Unreachable
from app.cli.log.rendering import value_bytes
from app.cli.queues.locks import Locks
from app.cli.queues.queues import queue_path
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.interruption import Stopped
from app.cli.terminal.outage_notice import OutageNotice
from app.cli.terminal.output import counted, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.cli.terminal.interruption import Interruption

_TRY_LATER = 75
"""EX_TEMPFAIL of sysexits.h."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LONGEST_BACKOFF_MS = 3_600_000
_SPARE_S = 30.0
_ANSWER_S = 10.0
"""How long an answer may take that is not waited for on purpose."""
_LAST_PATIENCE_S = 5.0
"""How long a result is held out to a server that is away, once told to end."""
_HEARD_S = 0.25
"""Longest wait after which a signal is heard."""
_NEWS_S = 10.0
"""How old what is known of the queue may be while records come."""
_ENDING = (signal.SIGTERM, signal.SIGKILL)
"""What the second and the third signal send to the commands."""
_TOO_LATE, _UNCONFIRMED = "too late", "not confirmed"
_CODES = {0: "accept", _TRY_LATER: "release"}


class _Record(msgspec.Struct):
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: msgspec.Raw
    headers: msgspec.Raw = msgspec.Raw(b"[]")
    encoding: str = "json"
    key_encoding: str = "text"


class _Delivery(msgspec.Struct):
    delivery_id: str
    delivery_count: int
    locked_until_ms: int
    record: _Record


class _Acquired(msgspec.Struct):
    deliveries: list[_Delivery]


_decoder = msgspec.json.Decoder(_Acquired)


class QueueWorker:
    """Commands at work for a queue.

    Args:
        client: Of the server, used from several threads.
        queue: As the server describes it.
        command: What to run.
        interruption: Ends the work.
        concurrency: How many at once.
        backoff_ms: First pause after exit code 75.
    """

    def __init__(
        self,
        client: Client,
        queue: Mapping[str, Any],
        command: Sequence[str],
        interruption: Interruption,
        *,
        concurrency: int,
        backoff_ms: int,
    ) -> None:
        self._client = client
        self._interruption = interruption
        self._name: str = queue["name"]
        self._topic: str = queue["topic"]
        self._path = queue_path(self._name)
        self._command = list(command)
        self._concurrency = concurrency
        self._backoff_ms = backoff_ms
        self._locks = Locks(client, self._path)
        self._paused = False
        self._learn(queue)
        self._pool = ThreadPoolExecutor(concurrency, "work")
        self._futures: set[Future[None]] = set()
        self._begun: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._signalled: dict[str, int] = {}
        self._stopping = threading.Event()
        self._failure: CommandFailed | None = None
        self._outage = OutageNotice()
        self._outcomes: Counter[str] = Counter()

    @property
    def summary(self) -> str:
        """What was done, as a sentence."""
        accepted, released = self._outcomes["accept"], self._outcomes["release"]
        rest = [f"{self._outcomes[word]} {word}" for word in (_TOO_LATE, _UNCONFIRMED) if self._outcomes[word]]
        return ", ".join([f"{accepted} accepted", f"{released} released", *rest])

    def run(self, *, max_wait_ms: int, until_empty: bool) -> None:
        """Work until told to end, or until nothing is there; then finish what is begun and give back the rest.

        Raises:
            CommandFailed: The command cannot be run, or the server refuses.
        """
        try:
            with contextlib.suppress(Stopped):
                self._take_on(max_wait_ms, until_empty=until_empty)
            if self._interruption.signal_number is not None and self._begun:
                tell(f"finishing {counted(len(self._begun), 'command')}; Ctrl-C again ends them")
        finally:
            self._finish()
            self._locks.close()
        if self._failure is not None:
            raise self._failure

    def _take_on(self, max_wait_ms: int, *, until_empty: bool) -> None:
        while self._failure is None and self._interruption.signal_number is None:
            deliveries = self._acquire(self._concurrency - len(self._futures), max_wait_ms)
            for delivery in deliveries:
                self._futures.add(self._pool.submit(self._work, delivery))
            if not deliveries or time.monotonic() - self._learned_s > _NEWS_S:
                self._ask_for_news()
            if not deliveries and until_empty and not self._futures:
                break
            if len(self._futures) >= self._concurrency or (until_empty and not deliveries):
                self._await_one()
            done = {future for future in self._futures if future.done()}
            self._futures -= done
            for future in done:
                future.result()

    def _await_one(self) -> None:
        """Wait until a command has ended, or all are to."""
        while self._interruption.signal_number is None:
            if wait(self._futures, timeout=_HEARD_S, return_when="FIRST_COMPLETED").done:
                return

    def _finish(self) -> None:
        """Wait for the commands that run, and give back what was not begun."""
        self._stopping.set()
        while wait(self._futures, timeout=_HEARD_S).not_done:
            self._end_commands(min(self._interruption.count - 1, len(_ENDING)))
        self._pool.shutdown()
        if held := self._locks.held():
            self._acknowledge([{"delivery_id": each, "outcome": "release"} for each in held])
            self._locks.let_go(held)

    def _end_commands(self, times: int) -> None:
        """End the commands that run, so many times, the last time by force; their records are released."""
        for delivery_id, process in list(self._processes.items()):
            if self._signalled.get(delivery_id, 0) < times:
                if not self._signalled and times == 1:
                    tell("ending the commands; Ctrl-C again kills them")
                self._signalled[delivery_id] = times
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, _ENDING[times - 1])

    def _ask_for_news(self) -> None:
        with contextlib.suppress(ServerRefused, Unreachable):  # the next acquire says so
            self._learn(self._client.send("GET", self._path, timeout_s=_ANSWER_S).json())

    def _learn(self, queue: Mapping[str, Any]) -> None:
        """Take note of what the queue is now, and say once that nothing comes of it."""
        self._learned_s = time.monotonic()
        self._lock_ms: int = queue["lock_duration_ms"]
        if queue["paused"] and not self._paused:
            tell(f"the queue is paused; millrace queues resume {self._name}")
        self._paused = queue["paused"]

    def _acquire(self, number: int, max_wait_ms: int) -> list[_Delivery]:
        """Acquire records, and while the server is away, wait and try again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            lock_ms = self._lock_ms
            given = {"max_records": number, "max_wait_ms": max_wait_ms, "lock_duration_ms": lock_ms}
            try:
                with self._interruption.raising():
                    response = self._client.send(
                        "POST",
                        f"{self._path}/acquire",
                        body=json.dumps(given).encode(),
                        timeout_s=max_wait_ms / 1000 + _SPARE_S,
                    )
                self._outage.end()
                deliveries = _decoder.decode(response.content).deliveries
                self._locks.hold({each.delivery_id: each.locked_until_ms for each in deliveries}, lock_ms)
                self._paused = self._paused and not deliveries
                return deliveries
            except (ServerRefused, Unreachable) as error:
                if isinstance(error, ServerRefused) and not error.passing:
                    raise
                self._outage.begin(error)
                with self._interruption.raising():
                    time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _work(self, delivery: _Delivery) -> None:
        """Run the command for a record and say what became of it."""
        outcome: dict[str, object] = {"delivery_id": delivery.delivery_id, "outcome": "release"}
        ending = self._stopping.is_set() or self._interruption.signal_number is not None or self._failure is not None
        if not ending and (code := self._run(delivery)) is not None:
            outcome["outcome"] = _CODES.get(code, "release")
            if code == _TRY_LATER:
                pause_ms = self._backoff_ms * 2 ** min(delivery.delivery_count - 1, 20)
                outcome["delay_ms"] = min(pause_ms, _LONGEST_BACKOFF_MS)
            elif code:
                tell(f"{_failed(delivery, code)}; released")
        self._acknowledge([outcome])
        self._locks.let_go([delivery.delivery_id])

    def _run(self, delivery: _Delivery) -> int | None:
        """Return the exit code of the command for a record, or None if it cannot be run."""
        self._begun.add(delivery.delivery_id)  # before: a command may be at work before it has a process here
        try:
            return self._run_begun(delivery)
        finally:
            self._begun.discard(delivery.delivery_id)

    def _run_begun(self, delivery: _Delivery) -> int | None:
        try:
            process = subprocess.Popen(  # noqa: S603 - what the user asked for
                self._command, stdin=subprocess.PIPE, env=self._environment(delivery), start_new_session=True
            )
        except OSError as error:
            self._failure = CommandFailed(f"cannot run {self._command[0]}: {error.strerror}")
            return None
        self._processes[delivery.delivery_id] = process
        try:
            process.communicate(value_bytes(delivery.record.value, delivery.record.encoding))
        finally:
            del self._processes[delivery.delivery_id]
        return process.returncode

    def _environment(self, delivery: _Delivery) -> dict[str, str]:
        record = delivery.record
        given = {
            "QUEUE": self._name,
            "TOPIC": self._topic,
            "PARTITION": str(record.partition),
            "OFFSET": str(record.offset),
            "TIMESTAMP_MS": str(record.timestamp_ms),
            "KEY": record.key,
            "KEY_ENCODING": record.key_encoding,
            "VALUE_ENCODING": "null" if bytes(record.value) == b"null" else record.encoding,
            "HEADERS": bytes(record.headers).decode(),
            "DELIVERY_ID": delivery.delivery_id,
            "DELIVERY_COUNT": str(delivery.delivery_count),
            "LOCKED_UNTIL_MS": str(delivery.locked_until_ms),
        }
        return os.environ | {
            f"MILLRACE_{name}": value for name, value in given.items() if value is not None and "\0" not in value
        }

    def _acknowledge(self, outcomes: Sequence[Mapping[str, object]]) -> None:
        """Say what became of deliveries; while the server is away, try again: till told to end, and a little longer."""
        body = json.dumps({"acknowledgements": outcomes}).encode()
        pause_s, last_s, certain = _FIRST_PAUSE_S, float("inf"), True
        while True:
            try:
                left_s = min(_ANSWER_S, max(_FIRST_PAUSE_S, last_s - time.monotonic()))
                answer = self._client.send("POST", f"{self._path}/acknowledge", body=body, timeout_s=left_s)
                results = answer.json()["results"]
            except (ServerRefused, Unreachable) as error:
                passing = isinstance(error, Unreachable) or error.passing
                certain = certain and isinstance(error, ServerRefused)
                if passing and self._interruption.count == 1 and last_s == float("inf"):
                    last_s = time.monotonic() + _LAST_PATIENCE_S
                    rest = counted(len(outcomes), "result")
                    tell(f"waiting for the server to take {rest}; Ctrl-C again ends without")
                if not passing or self._interruption.count > 1 or time.monotonic() > last_s:
                    self._failure = error
                    self._outcomes[_UNCONFIRMED] += len(outcomes)
                    return
                self._outage.begin(error)
                self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self._outage.end()
            for result in results:
                self._outcomes[_TOO_LATE if result["code"] else result["outcome"]] += 1
                if result["code"]:
                    tell(_unsettled(result["delivery_id"], result["code"], certain=certain))
            return

    def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the next signal is heard."""
        count, until_s = self._interruption.count, time.monotonic() + seconds
        while self._interruption.count == count and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _HEARD_S))


def _unsettled(delivery_id: str, code: str, *, certain: bool) -> str:
    """Return why the queue did not take an outcome, and what comes of it."""
    if code == "DELAYED_RECORDS_LIMIT":
        return f"no more records can be delayed: delivery {delivery_id} waits until its lock passes ({code})"
    again = "it is delivered again" if certain else "it is delivered again, unless only an answer was lost"
    return f"too late for delivery {delivery_id} ({code}): {again}"


def _failed(delivery: _Delivery, code: int) -> str:
    """Return which command failed, and how."""
    end = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
    record = delivery.record
    return f"offset {record.offset} of partition {record.partition}: {end} on delivery {delivery.delivery_count}"
