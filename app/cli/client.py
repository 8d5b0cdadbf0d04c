"""HTTP client of the commands: turns errors into exit codes, and prints requests as curl lines on `--verbose`."""

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
from app.cli.spelling import in_spelling_of_options
from app.cli.terminal.failure import ERROR, NOT_FOUND, REFUSED, UNAVAILABLE, CommandFailed
from app.cli.terminal.output import confirm, print_message, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    import httpx2

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 30.0
_MAX_ARGUMENT_BYTES = 100_000
_START_HINT = "start one with millrace serve, or name it with --url or MILLRACE_URL"
_RESOURCE_PATH = re.compile(r"/v1/(topics|queues|groups)/([^/]+)")
_MISSING = {
    "topics": ("UNKNOWN_TOPIC_OR_PARTITION", "there is no topic {0}", "millrace topics create {0} creates it"),
    "queues": ("UNKNOWN_QUEUE", "there is no queue {0}", "millrace queues create {0} TOPIC creates it"),
    "groups": ("GROUP_ID_NOT_FOUND", "there is no group {0}", "millrace consume TOPIC --group {0} creates it"),
}
"""Messages for an unknown name in a path, by resource: the error code, and the command that creates the resource."""

_OTHER_URLS = re.compile(r"MILLRACE_(URL|DATABASE_URL|TEST_.*)")
"""Variables that are not a misspelt MILLRACE_URL."""
_SIMILARITY = 0.9

_IMPLIED_HEADERS = {"host", "accept-encoding", "connection", "user-agent", "content-length"}


def default_url() -> str:
    """Return the URL of a server on this machine, at the port that `serve` listens on by default.

    Warn of variables that were probably meant to be MILLRACE_URL: another server would be used without notice.

    Raises:
        CommandFailed: MILLRACE_PORT is not a port.
    """
    port = os.environ.get("MILLRACE_PORT") or "8400"
    if not re.fullmatch(r"[0-9]{1,5}", port):
        raise CommandFailed("MILLRACE_PORT is not a port; set it to a number, or name the server with MILLRACE_URL")
    url = f"http://127.0.0.1:{port}"
    for name in sorted(os.environ):
        if _may_mean_url(name):
            print_message(f"{printable(name)} has no effect; did you mean MILLRACE_URL? Using {url}")
    return url


def _may_mean_url(name: str) -> bool:
    given = name.upper()
    if not given.startswith("MIL") or _OTHER_URLS.fullmatch(name):
        return False
    if given.startswith("MILLRACE_") and given.endswith("URL"):
        return True
    from difflib import SequenceMatcher

    return SequenceMatcher(None, given, "MILLRACE_URL").ratio() > _SIMILARITY


Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="MILLRACE_URL",
        help="URL of the server.",
        default_factory=default_url,
        show_default="http://127.0.0.1:8400, or the port in MILLRACE_PORT",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print each request as a curl command on stderr.")]


class RequestFailed(CommandFailed):
    """A request has no successful answer.

    Attributes:
        is_retriable: Whether the same request may succeed later.
    """

    is_retriable: bool


class ServerRefused(RequestFailed):
    """The server answered with a problem.

    Args:
        status: Of the answer.
        problem: The problem document; empty if the answer has none.
        message: What failed.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], message: str) -> None:
        exit_code = NOT_FOUND if status == 404 else REFUSED if 400 <= status < 500 else UNAVAILABLE
        super().__init__(message, exit_code)
        self.status = status
        self.problem = problem
        self.is_retriable = problem.get("retriable") is True or status in {429, 502, 503, 504}

    @property
    def code(self) -> str | None:
        """The problem's error code, if it has one."""
        return self.problem.get("code")

    @property
    def changed_nothing(self) -> bool:
        """Whether the server certainly changed nothing."""
        return self.status < 500 or self.problem.get("retriable") is True


class Unreachable(RequestFailed):
    """The server did not answer."""

    is_retriable = True


class Client:
    """Sends requests to one server.

    Args:
        url: The server's base URL; a path is kept as prefix.
        verbose: Whether to print each request as a curl command on standard error.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, url: str, *, verbose: bool = False, timeout_s: float = _READ_TIMEOUT_S) -> None:
        import httpx2

        self.url = url.rstrip("/")
        self._verbose = verbose
        self._transport_error = httpx2.TransportError
        try:
            self._client = httpx2.Client(
                base_url=self.url,
                timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s)),
                headers={"user-agent": f"millrace/{__version__}"},
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise _invalid_url(url) from error
        if self._client.base_url.scheme not in {"http", "https"} or not self._client.base_url.host:
            raise _invalid_url(url)

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
        is_deletion: bool = False,
    ) -> httpx2.Response:
        """Send a request and return its 2xx answer.

        Args:
            method: HTTP method.
            path: Below the base URL; its parts are quoted already.
            params: Query parameters; None values are left out.
            body: JSON unless `headers` name another Content-Type.
            headers: In addition to the client's own.
            timeout_s: Replaces the client's timeout for the answer.
            is_deletion: Whether the command deletes, so that an error does not suggest the creation.

        Raises:
            ServerRefused: The answer is not 2xx.
            Unreachable: There is no answer.
        """
        default_headers = {"accept": "application/json"} | (
            {"content-type": "application/json"} if body is not None else {}
        )
        query = {name: str(value) for name, value in (params or {}).items() if value is not None}
        request = self._client.build_request(
            method, path, params=query or None, content=body, headers=default_headers | dict(headers or {})
        )
        if timeout_s is not None:
            request.extensions["timeout"]["read"] = timeout_s
        if self._verbose:
            print(as_curl(request), file=sys.stderr)
        try:
            response = self._client.send(request)
        except self._transport_error as error:
            kind = type(error).__name__
            reason = "no answer in time" if "Timeout" in kind else str(error) or "the connection was lost"
            hint = _START_HINT if "Connect" in kind else ""
            raise Unreachable(f"cannot reach {self.url}: {reason}", UNAVAILABLE, hint) from error
        if not response.is_success:
            raise _error_of(response, is_deletion=is_deletion or method == "DELETE")
        return response

    def confirm(self, path: str, question: str, *, yes: bool) -> None:
        """Request confirmation of a change to the resource at a path, if the resource exists.

        Raises:
            ServerRefused: The resource does not exist.
            BadParameter, Abort: See `app/cli/terminal/output.py`.
        """
        if not yes:
            self.send("GET", path, is_deletion=True)
        confirm(question, yes=yes)

    def exists(self, path: str) -> bool:
        """Return whether the resource at a path exists."""
        try:
            self.send("GET", path)
        except ServerRefused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def list_items(self, path: str) -> Iterator[Any]:
        """Return all items of a list; fetches it page by page."""
        cursor: str | None = None
        while True:
            page = self.send("GET", path, params={"limit": 1_000, "cursor": cursor}).json()
            yield from page["items"]
            if (cursor := page["next_cursor"]) is None:
                return


def as_curl(request: httpx2.Request) -> str:
    """Return a request as a curl command; a long or binary body is read from standard input."""
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


def _invalid_url(url: str) -> CommandFailed:
    return CommandFailed(f"{url!r} is not the URL of a server: use one such as http://127.0.0.1:8400", ERROR)


def _error_of(response: httpx2.Response, *, is_deletion: bool) -> ServerRefused:
    status = response.status_code
    try:
        problem = response.json()
    except (JSONDecodeError, UnicodeDecodeError):
        problem = None
    if not isinstance(problem, dict) or "detail" not in problem:
        message = f"{response.request.url} answered {status} {response.reason_phrase}: is it a Millrace server?"
        return ServerRefused(status, {}, message)
    request_id = f", request {problem['request_id']}" if status >= 500 and "request_id" in problem else ""
    detail = _missing_resource(
        response.request.url.raw_path.decode(), problem, is_deletion=is_deletion
    ) or in_spelling_of_options(problem["detail"])
    return ServerRefused(status, problem, f"{detail} ({problem.get('code', status)}{request_id})")


def _missing_resource(path: str, problem: Mapping[str, Any], *, is_deletion: bool) -> str | None:
    """Return which topic, queue or group is missing, and a command that helps; None for other problems.

    The command creates the resource, unless the command deletes.
    """
    if (found := _RESOURCE_PATH.search(path.partition("?")[0])) is None or " of this name" not in problem["detail"]:
        return None
    code, message, creation = _MISSING[found[1]]
    if problem.get("code") != code:
        return None
    hint = f"millrace {found[1]} list shows all" if is_deletion else creation
    return f"{message}; {hint}".format(printable(unquote(found[2])))
