"""Acknowledgements of deliveries, repeated while the server is unavailable, and their results."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from app.cli.client import RequestFailed, Unreachable
from app.cli.terminal.output import counted, print_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.cli.client import Client
    from app.cli.terminal.outage_notice import OutageNotice
    from app.cli.terminal.shutdown_signals import ShutdownSignals

_RETRY_BACKOFF_S = 0.1
_RETRY_BACKOFF_MAX_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_SHUTDOWN_TIMEOUT_S = 5.0
"""How long to repeat a request after the first signal."""
_SIGNAL_CHECK_S = 0.25
_TOO_LATE, _UNCONFIRMED = "too late", "not confirmed"


class Acknowledger:
    """Sends the outcomes of deliveries and counts the results.

    Args:
        client: HTTP client, used from several threads.
        queue_path: Path of the queue.
        shutdown: The first signal limits the retries, the second ends them.
        outage: Reports that the server is unavailable.
    """

    def __init__(self, client: Client, queue_path: str, shutdown: ShutdownSignals, outage: OutageNotice) -> None:
        self._client = client
        self._path = f"{queue_path}/acknowledge"
        self._shutdown = shutdown
        self._outage = outage
        self._results: Counter[str] = Counter()

    @property
    def summary(self) -> str:
        """The results so far, as a sentence."""
        counts = [f"{self._results['accept']} accepted", f"{self._results['release']} released"]
        counts += [f"{self._results[name]} {name}" for name in (_TOO_LATE, _UNCONFIRMED) if self._results[name]]
        return ", ".join(counts)

    def send(self, acknowledgements: Sequence[Mapping[str, object]]) -> None:
        """Send acknowledgements; repeat the request while the server is unavailable.

        Raises:
            RequestFailed: The error is final, or a signal ended the retries.
        """
        body = json.dumps({"acknowledgements": acknowledgements}).encode()
        backoff_s, give_up_at_s, answer_lost = _RETRY_BACKOFF_S, float("inf"), False
        while True:
            timeout_s = min(_ANSWER_TIMEOUT_S, max(_RETRY_BACKOFF_S, give_up_at_s - time.monotonic()))
            try:
                answer = self._client.send("POST", self._path, body=body, timeout_s=timeout_s)
            except RequestFailed as error:
                answer_lost = answer_lost or isinstance(error, Unreachable)
                if error.is_retriable and self._shutdown.count == 1 and give_up_at_s == float("inf"):
                    give_up_at_s = time.monotonic() + _SHUTDOWN_TIMEOUT_S
                    results = counted(len(acknowledgements), "result")
                    print_message(f"waiting for the server to take {results}; press Ctrl-C again to exit without")
                if not error.is_retriable or self._shutdown.count > 1 or time.monotonic() > give_up_at_s:
                    self._results[_UNCONFIRMED] += len(acknowledgements)
                    raise
                self._outage.report(error)
                self._back_off(backoff_s)
                backoff_s = min(2 * backoff_s, _RETRY_BACKOFF_MAX_S)
            else:
                self._outage.clear()
                self._count(answer.json()["results"], answer_lost=answer_lost)
                return

    def _count(self, results: Iterable[Mapping[str, Any]], *, answer_lost: bool) -> None:
        for result in results:
            self._results[_TOO_LATE if result["code"] else result["outcome"]] += 1
            if result["code"]:
                print_message(_error_message(result["delivery_id"], result["code"], answer_lost=answer_lost))

    def _back_off(self, seconds: float) -> None:
        """Wait, at most until the next signal."""
        count, until_s = self._shutdown.count, time.monotonic() + seconds
        while self._shutdown.count == count and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _SIGNAL_CHECK_S))


def _error_message(delivery_id: str, code: str, *, answer_lost: bool) -> str:
    """Return why the queue refused an outcome, and what follows for the record."""
    if code == "DELAYED_RECORDS_LIMIT":
        return f"the queue cannot delay more records: delivery {delivery_id} is released when its lock expires ({code})"
    consequence = "it is delivered again"
    if answer_lost:
        consequence += ", unless an earlier attempt succeeded and only its answer was lost"
    return f"too late for delivery {delivery_id} ({code}): {consequence}"
