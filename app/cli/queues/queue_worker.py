"""The worker of a queue: acquires records, runs a command for each, and acknowledges its outcome."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from app.cli.client import Client, RequestFailed
from app.cli.queues.acknowledger import Acknowledger
from app.cli.queues.command_runner import CommandRunner
from app.cli.queues.deliveries import decode_deliveries
from app.cli.queues.lock_renewer import LockRenewer
from app.cli.queues.queues import queue_path
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.outage_notice import OutageNotice
from app.cli.terminal.output import counted, print_message
from app.cli.terminal.shutdown_signals import ShutdownRequested

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.cli.queues.deliveries import Delivery
    from app.cli.terminal.shutdown_signals import ShutdownSignals

_EX_TEMPFAIL = 75
"""Exit code of sysexits.h: try again later."""

_RETRY_BACKOFF_S = 0.1
_RETRY_BACKOFF_MAX_S = 5.0
_FAILURE_PAUSE_S = 0.1
_FAILURE_PAUSE_MAX_S = 5.0
_MAX_DELAY_MS = 3_600_000
_ACQUIRE_TIMEOUT_S = 30.0
"""Longest wait for the answer to an acquire, beyond the wait for records."""
_ANSWER_TIMEOUT_S = 10.0
_SIGNAL_CHECK_S = 0.25
_QUEUE_REFRESH_S = 10.0
"""Longest time between two requests for the queue's settings."""


class QueueWorker:
    """Runs a command for each record of a queue, several at once.

    Args:
        client: HTTP client, used from several threads.
        queue: The queue's description from the server.
        command: The command and its arguments.
        shutdown: Ends the worker: the first signal lets commands finish, the next ones end and kill them.
        concurrency: Most commands at once.
        backoff_ms: Delay after the first exit code 75 of a record; doubled each time.
    """

    def __init__(
        self,
        client: Client,
        queue: Mapping[str, Any],
        command: Sequence[str],
        shutdown: ShutdownSignals,
        *,
        concurrency: int,
        backoff_ms: int,
    ) -> None:
        self._client = client
        self._shutdown = shutdown
        self._name: str = queue["name"]
        self._path = queue_path(self._name)
        self._concurrency = concurrency
        self._backoff_ms = backoff_ms
        self._outage = OutageNotice()
        self._commands = CommandRunner(command, self._name, queue["topic"])
        self._locks = LockRenewer(client, self._path)
        self._acknowledger = Acknowledger(client, self._path, shutdown, self._outage)
        self._is_paused = False
        self._update_queue(queue)
        self._pool = ThreadPoolExecutor(concurrency, "work")
        self._futures: set[Future[None]] = set()
        self._stopping = threading.Event()
        self._failure: CommandFailed | None = None

    @property
    def summary(self) -> str:
        """The results so far, as a sentence."""
        return self._acknowledger.summary

    def run(self, *, max_wait_ms: int, until_empty: bool) -> None:
        """Process records until a signal, or until the queue is empty; then finish the running commands.

        Raises:
            CommandFailed: The command cannot be started, or the server refuses a request.
        """
        try:
            with contextlib.suppress(ShutdownRequested):
                self._process_records(max_wait_ms, until_empty=until_empty)
            if self._shutdown.signal_number is not None and (running := self._commands.running):
                print_message(f"finishing {counted(running, 'command')}; press Ctrl-C again to end them")
        finally:
            self._finish()
            self._locks.close()
        if self._failure is not None:
            raise self._failure

    @property
    def _is_ending(self) -> bool:
        return self._failure is not None or self._shutdown.signal_number is not None or self._stopping.is_set()

    def _process_records(self, max_wait_ms: int, *, until_empty: bool) -> None:
        while not self._is_ending:
            deliveries = self._acquire(self._concurrency - len(self._futures), max_wait_ms)
            self._futures |= {self._pool.submit(self._process, delivery) for delivery in deliveries}
            if not deliveries or time.monotonic() - self._queue_updated_s > _QUEUE_REFRESH_S:
                self._refresh_queue()
            is_empty = until_empty and not deliveries
            if is_empty and not self._futures:
                return
            if is_empty or len(self._futures) >= self._concurrency:
                self._wait_for_one()
            self._remove_done()

    def _wait_for_one(self) -> None:
        """Wait until a command has ended, or a signal arrives."""
        while self._shutdown.signal_number is None:
            if wait(self._futures, timeout=_SIGNAL_CHECK_S, return_when="FIRST_COMPLETED").done:
                return

    def _remove_done(self) -> None:
        done = {future for future in self._futures if future.done()}
        self._futures -= done
        for future in done:
            future.result()

    def _finish(self) -> None:
        """Wait for the running commands, and release the records whose command has not started."""
        self._stopping.set()
        while wait(self._futures, timeout=_SIGNAL_CHECK_S).not_done:
            self._commands.signal_all(self._shutdown.count - 1)
        self._pool.shutdown()
        if held := self._locks.held():
            self._acknowledge([{"delivery_id": delivery_id, "outcome": "release"} for delivery_id in held])
            self._locks.remove(held)

    def _refresh_queue(self) -> None:
        with contextlib.suppress(RequestFailed):  # the next acquire reports the failure
            self._update_queue(self._client.send("GET", self._path, timeout_s=_ANSWER_TIMEOUT_S).json())

    def _update_queue(self, queue: Mapping[str, Any]) -> None:
        """Take over the queue's settings; print once when it is paused."""
        self._queue_updated_s = time.monotonic()
        self._lock_duration_ms: int = queue["lock_duration_ms"]
        self._max_delivery_count: int = queue["max_delivery_count"]
        if queue["paused"] and not self._is_paused:
            print_message(f"the queue is paused; millrace queues resume {self._name}")
        self._is_paused = queue["paused"]

    def _acquire(self, max_records: int, max_wait_ms: int) -> list[Delivery]:
        """Acquire records; repeat the request while the server is unavailable."""
        backoff_s = _RETRY_BACKOFF_S
        while True:
            lock_duration_ms = self._lock_duration_ms
            document = {
                "max_records": max_records,
                "max_wait_ms": max_wait_ms,
                "lock_duration_ms": lock_duration_ms,
            }
            try:
                with self._shutdown.raising():
                    response = self._client.send(
                        "POST",
                        f"{self._path}/acquire",
                        body=json.dumps(document).encode(),
                        timeout_s=max_wait_ms / 1000 + _ACQUIRE_TIMEOUT_S,
                    )
                self._outage.clear()
                deliveries = decode_deliveries(response.content)
                self._locks.add({each.delivery_id: each.locked_until_ms for each in deliveries}, lock_duration_ms)
                self._is_paused = self._is_paused and not deliveries
                return deliveries
            except RequestFailed as error:
                if not error.is_retriable:
                    raise
                self._outage.report(error)
                with self._shutdown.raising():
                    time.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _RETRY_BACKOFF_MAX_S)

    def _process(self, delivery: Delivery) -> None:
        """Run the command for a delivery, and acknowledge the outcome; without the command while ending."""
        acknowledgement: dict[str, object] = {"delivery_id": delivery.delivery_id, "outcome": "release"}
        if not self._is_ending:
            try:
                exit_code = self._commands.run(delivery)
            except CommandFailed as error:
                self._failure = error
            else:
                acknowledgement |= self._outcome(delivery, exit_code)
        self._acknowledge([acknowledgement])
        self._locks.remove([delivery.delivery_id])

    def _outcome(self, delivery: Delivery, exit_code: int) -> dict[str, object]:
        if exit_code == 0:
            return {"outcome": "accept"}
        if exit_code == _EX_TEMPFAIL:
            delay_ms = self._backoff_ms * 2 ** min(delivery.delivery_count - 1, 20)
            return {"outcome": "release", "delay_ms": min(delay_ms, _MAX_DELAY_MS)}
        print_message(f"{_failed_command(delivery, exit_code)}; released")
        self._pause_after_failure(delivery.delivery_count)
        return {"outcome": "release"}

    def _pause_after_failure(self, delivery_count: int) -> None:
        """Keep a record whose command has failed for a time that doubles with each delivery, or until the worker ends.

        Released at once, it could be delivered, and fail, as often as is allowed within a moment.
        """
        if delivery_count < self._max_delivery_count:
            self._stopping.wait(min(_FAILURE_PAUSE_S * 2 ** min(delivery_count - 1, 10), _FAILURE_PAUSE_MAX_S))

    def _acknowledge(self, acknowledgements: Sequence[Mapping[str, object]]) -> None:
        try:
            self._acknowledger.send(acknowledgements)
        except RequestFailed as error:
            self._failure = error


def _failed_command(delivery: Delivery, exit_code: int) -> str:
    """Return which command failed, and how."""
    end = f"exit code {exit_code}" if exit_code > 0 else f"ended by signal {-exit_code}"
    record = delivery.record
    return f"offset {record.offset} of partition {record.partition}: {end} on delivery {delivery.delivery_count}"
