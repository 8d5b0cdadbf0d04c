"""The HTTP client of the commands: refusals become exit codes, and `--verbose` shows each request as curl."""

from __future__ import annotations

import os
import re
import shlex
import sys
from json import JSONDecodeError
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import unquote

import typer

from app import __version__
from app.cli.terminal.failure import ERROR, NOT_FOUND, REFUSED, UNAVAILABLE, CommandFailed
from app.cli.terminal.output import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    import httpx2

_CONNECT_S = 5.0
_ANSWER_S = 30.0
_MAX_ARGUMENT_BYTES = 100_000
_START = "start one with millrace serve, or name it with --url or MILLRACE_URL"
_NAMED = re.compile(r"/v1/(topics|queues|groups)/([^/]+)")
_MISSING = {
    "topics": ("UNKNOWN_TOPIC_OR_PARTITION", "there is no topic {0}; millrace topics create {0} creates it"),
    "queues": ("UNKNOWN_QUEUE", "there is no queue {0}; millrace queues create {0} TOPIC creates it"),
    "groups": ("GROUP_ID_NOT_FOUND", "there is no group {0}; millrace consume TOPIC --group {0} creates it"),
}
"""What is said of a name in a path that is unknown: in the words of the command line."""

_IMPLIED_HEADERS = {"host", "accept-encoding", "connection", "user-agent", "content-length"}


def default_url() -> str:
    """Return the server on this machine, at the port that `serve` would take."""
    return f"http://127.0.0.1:{os.environ.get('MILLRACE_PORT') or '8400'}"


Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="MILLRACE_URL",
        help="The server.",
        default_factory=default_url,
        show_default="http://127.0.0.1:8400, or the port in MILLRACE_PORT",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print each request as a curl line on stderr.")]


class ServerRefused(CommandFailed):
    """The server answered with a problem.

    Args:
        status: Of the answer.
        problem: The problem document; empty if the answer has none.
        sentence: What to tell.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], sentence: str) -> None:
        exit_code = NOT_FOUND if status == 404 else REFUSED if 400 <= status < 500 else UNAVAILABLE
        super().__init__(sentence, exit_code)
        self.status = status
        self.problem = problem

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.problem.get("retriable") is True or self.status in {429, 502, 503, 504}

    @property
    def nothing_done(self) -> bool:
        """Whether it is certain that the server did nothing."""
        return self.status < 500 or self.problem.get("retriable") is True


class Unreachable(CommandFailed):
    """There was no answer."""


class Client:
    """Sends requests to one server.

    Args:
        url: The server's base URL; a path is kept as prefix.
        verbose: Whether to print each request as a curl line on standard error.
        timeout_s: For an answer.
    """

    def __init__(self, url: str, *, verbose: bool = False, timeout_s: float = _ANSWER_S) -> None:
        import httpx2

        self.url = url.rstrip("/")
        self._verbose = verbose
        self._transport_error = httpx2.TransportError
        try:
            self._client = httpx2.Client(
                base_url=self.url,
                timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
                headers={"user-agent": f"millrace/{__version__}"},
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise _not_a_url(url) from error
        if self._client.base_url.scheme not in {"http", "https"} or not self._client.base_url.host:
            raise _not_a_url(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | None] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> httpx2.Response:
        """Send a request and return its 2xx answer.

        Args:
            method: Of HTTP.
            path: Below the base URL, its parts already quoted.
            params: Of the query; those that are None are left out.
            body: JSON unless `headers` name another Content-Type.
            headers: Beside the client's own.
            timeout_s: For the answer, instead of the client's.

        Raises:
            ServerRefused: Any other answer.
            Unreachable: No answer.
        """
        given = {"accept": "application/json"} | ({"content-type": "application/json"} if body is not None else {})
        query = {name: str(value) for name, value in (params or {}).items() if value is not None}
        request = self._client.build_request(
            method, path, params=query or None, content=body, headers=given | dict(headers or {})
        )
        if timeout_s is not None:
            request.extensions["timeout"]["read"] = timeout_s
        if self._verbose:
            print(as_curl(request), file=sys.stderr)
        try:
            response = self._client.send(request)
        except self._transport_error as error:
            reason = (
                str(error) or "the connection was lost"
                if "Timeout" not in type(error).__name__
                else "no answer in time"
            )
            hint = _START if "Connect" in type(error).__name__ else ""
            raise Unreachable(f"cannot reach {self.url}: {reason}", UNAVAILABLE, hint) from error
        if not response.is_success:
            raise _refused(response)
        return response

    def has(self, path: str) -> bool:
        """Return whether there is something at a path."""
        try:
            self.send("GET", path)
        except ServerRefused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def pages(self, path: str) -> Iterator[Any]:
        """Return the items of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.send("GET", path, params={"limit": 1_000, "cursor": cursor}).json()
            yield from page["items"]
            if (cursor := page["next_cursor"]) is None:
                return


def as_curl(request: httpx2.Request) -> str:
    """Return a request as a command line; a long body is to be given on standard input."""
    words = ["curl"]
    if request.method != ("POST" if request.content else "GET"):
        words += ["-X", request.method]
    for name, value in request.headers.items():
        if name not in _IMPLIED_HEADERS:
            words += ["-H", f"{name}: {value}"]
    if request.content:
        words += ["--data-binary", _body_argument(request.content)]
    return shlex.join([*words, str(request.url)])


def _body_argument(body: bytes) -> str:
    if len(body) > _MAX_ARGUMENT_BYTES or body.startswith(b"@") or b"\0" in body:
        return "@-"
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "@-"


def _not_a_url(url: str) -> CommandFailed:
    return CommandFailed(f"{url!r} is not the URL of a server: use one such as http://127.0.0.1:8400", ERROR)


def _refused(response: httpx2.Response) -> ServerRefused:
    status = response.status_code
    try:
        problem = response.json()
    except (JSONDecodeError, UnicodeDecodeError):
        problem = None
    if not isinstance(problem, dict) or "detail" not in problem:
        sentence = f"{response.request.url} answered {status} {response.reason_phrase}: is it a Millrace server?"
        return ServerRefused(status, {}, sentence)
    request_id = f", request {problem['request_id']}" if status >= 500 and "request_id" in problem else ""
    sentence = _missing(response.request.url.raw_path.decode(), problem) or problem["detail"]
    return ServerRefused(status, problem, f"{sentence} ({problem.get('code', status)}{request_id})")


def _missing(path: str, problem: Mapping[str, Any]) -> str | None:
    """Return which topic, queue or group is missing, and the command that creates it, if that is the problem."""
    if (found := _NAMED.search(path.partition("?")[0])) is None or " of this name" not in problem["detail"]:
        return None
    code, sentence = _MISSING[found[1]]
    return sentence.format(printable(unquote(found[2]))) if problem.get("code") == code else None
