"""Processes that run a command for each delivery: the value on standard input, the rest in environment variables."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from app.cli.log.rendering import value_bytes
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.queues.deliveries import Delivery

_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


class CommandRunner:
    """Runs one command for many deliveries, from several threads.

    Args:
        command: The command and its arguments.
        queue: Name of the queue.
        topic: Name of the queue's topic.
    """

    def __init__(self, command: Sequence[str], queue: str, topic: str) -> None:
        self._command = list(command)
        self._queue = queue
        self._topic = topic
        self._running: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._signals_sent: dict[str, int] = {}

    @property
    def running(self) -> int:
        """How many commands run, including those that are being started."""
        return len(self._running)

    def run(self, delivery: Delivery) -> int:
        """Run the command for a delivery. Return its exit code, or the negative number of the signal that ended it.

        Raises:
            CommandFailed: The command cannot be started.
        """
        self._running.add(delivery.delivery_id)
        try:
            return self._run(delivery)
        finally:
            self._running.discard(delivery.delivery_id)

    def signal_all(self, level: int) -> None:
        """Send each running command the signals up to a level: 0 none, 1 SIGTERM, from 2 on SIGKILL.

        A command receives each signal once. The process group receives it, so that children end too.
        """
        level = min(level, len(_SIGNALS))
        for delivery_id, process in list(self._processes.items()):
            if self._signals_sent.get(delivery_id, 0) < level:
                if not self._signals_sent and level == 1:
                    print_message("ending the commands; press Ctrl-C again to kill them")
                self._signals_sent[delivery_id] = level
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, _SIGNALS[level - 1])

    def _run(self, delivery: Delivery) -> int:
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's command
                self._command, stdin=subprocess.PIPE, env=self._environment(delivery), start_new_session=True
            )
        except OSError as error:
            raise CommandFailed(f"cannot run {self._command[0]}: {error.strerror}") from None
        self._processes[delivery.delivery_id] = process
        try:
            process.communicate(value_bytes(delivery.record.value, delivery.record.encoding))
        finally:
            del self._processes[delivery.delivery_id]
        return process.returncode

    def _environment(self, delivery: Delivery) -> dict[str, str]:
        record = delivery.record
        variables = {
            "QUEUE": self._queue,
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
            f"MILLRACE_{name}": value for name, value in variables.items() if value is not None and "\0" not in value
        }
