"""Records the operations of clients: sends a request, and notes when it began and ended and what became of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import httpx2

from tests.e2e.support.raw_http import Answer, AnswerLost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.history.events import AnyEvent, Outcome


class Call(Protocol):
    """Sends one request.

    Raises:
        AnswerLost: The outcome is unknown.
    """

    async def __call__(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...


class Result(NamedTuple):
    """A request with its times and its outcome.

    Attributes:
        answer: What the server answered; None if the answer was lost.
    """

    began: int
    ended: int
    outcome: Outcome
    code: str
    answer: Answer | None

    @property
    def document(self) -> dict[str, Any]:
        """The JSON of the answer; empty without one."""
        return {} if self.answer is None else self.answer.document

    @property
    def times(self) -> dict[str, Any]:
        """The fields that all events have."""
        return {"began": self.began, "ended": self.ended, "outcome": self.outcome, "code": self.code}


class Recorder:
    """The history of one run. All its clients are tasks of one process, so that their times are of one clock."""

    def __init__(self) -> None:
        self.history: list[AnyEvent] = []

    @staticmethod
    def now() -> int:
        """Return the time in nanoseconds."""
        return time.monotonic_ns()

    def add(self, event: AnyEvent) -> None:
        """Add an operation."""
        self.history.append(event)

    async def run(self, call: Call, method: str, path: str, document: object = None, **headers: str) -> Result:
        """Send a request once. The underscores of header names become hyphens."""
        began = self.now()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            answer = await call(method, path, document, given)
        except AnswerLost:
            return Result(began, self.now(), "info", "LOST", None)
        return Result(began, self.now(), outcome_of(answer), answer.code, answer)


def outcome_of(answer: Answer) -> Outcome:
    """Return what an answer says: a problem that is `retriable`, or a 4xx, promises that nothing was written."""
    if answer.status < 300:
        return "ok"
    if answer.document.get("outcome") == "unknown":
        return "info"
    return "fail" if answer.status < 500 or answer.document.get("retriable") else "info"


def calls_of(client: httpx2.AsyncClient) -> Call:
    """Return a function that sends requests with a client."""

    async def call(method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        try:
            answer = await client.request(method, path, json=document, headers=headers)
        except httpx2.TransportError:
            raise AnswerLost from None
        return Answer(answer.status_code, answer.json() if answer.content else {})

    return call


def losing(call: Call) -> Call:
    """Return a function that sends a request and loses its answer."""

    async def lose(method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        await call(method, path, document, headers)
        raise AnswerLost

    return lose
