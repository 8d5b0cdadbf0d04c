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
from app.cli.credentials import API_KEY, CA_FILE, api_key, hint_of_refused_key, tls_context
from app.cli.server_url import check_url, describe_failure
from app.cli.spelling import in_spelling_of_options
from app.cli.terminal.failure import NOT_FOUND, REFUSED, UNAVAILABLE, CommandFailed
from app.cli.terminal.output import confirm, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    import httpx2

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 30.0
_MAX_ARGUMENT_BYTES = 100_000
_RESOURCE_PATH = re.compile(r"/v1/(topics|queues|groups|sources|webhooks)/([^/]+)")
_MISSING = {
    "topics": ("UNKNOWN_TOPIC_OR_PARTITION", "there is no topic {0}", "millrace topics create {0} creates it"),
    "queues": ("UNKNOWN_QUEUE", "there is no queue {0}", "millrace queues create {0} TOPIC creates it"),
    "groups": ("GROUP_ID_NOT_FOUND", "there is no group {0}", "millrace consume TOPIC --group {0} creates it"),
    "sources": ("UNKNOWN_SOURCE", "there is no source {0}", "millrace sources create {0} TOPIC creates it"),
    "webhooks": ("UNKNOWN_WEBHOOK", "there is no webhook {0}", "millrace webhooks create {0} URL TOPIC creates it"),
}
"""Messages for an unknown name in a path, by resource: the error code, and the command that creates the resource."""

_KEY_HEADER = f"authorization: Bearer ${API_KEY}"
_IMPLIED_HEADERS = {"host", "accept-encoding", "connection", "user-agent", "content-length"}


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
        key = api_key()
        context = tls_context()
        self._transport_error = httpx2.TransportError
        try:
            self._client = httpx2.Client(
                base_url=self.url,
                timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s)),
                headers={"user-agent": f"millrace/{__version__}"} | ({"authorization": f"Bearer {key}"} if key else {}),
                verify=True if context is None else context,
            )
        except (httpx2.InvalidURL, ValueError):
            check_url(url, None)
            raise
        check_url(url, self._client.base_url)

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
            method: HTTP method.
            path: Below the base URL; its parts are quoted already.
            params: Query parameters; None values are left out.
            body: JSON unless `headers` name another Content-Type.
            headers: In addition to the client's own.
            timeout_s: Replaces the client's timeout for the answer.

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
            reason, hint = describe_failure(self.url, error)
            raise Unreachable(f"cannot reach {self.url}: {reason}", UNAVAILABLE, hint) from error
        if not response.is_success:
            raise _error_of(response, self.url)
        return response

    def confirm(self, path: str, question: str, *, yes: bool) -> None:
        """Request confirmation of a change to the resource at a path, if the resource exists.

        Raises:
            ServerRefused: The resource does not exist.
            BadParameter, Abort: See `app/cli/terminal/output.py`.
        """
        if not yes:
            self.send("GET", path)
        confirm(question, yes=yes)

    def list_items(self, path: str, params: Mapping[str, str | int | None] | None = None) -> Iterator[Any]:
        """Return all items of a list that has these query parameters; fetches it page by page."""
        cursor: str | None = None
        while True:
            page = self.send("GET", path, params={"limit": 1_000, **(params or {}), "cursor": cursor}).json()
            yield from page["items"]
            if (cursor := page["next_cursor"]) is None:
                return


def as_curl(request: httpx2.Request) -> str:
    """Return a request as a curl command; a long or binary body is read from standard input.

    The key stands in it as a variable of the shell: what is printed is kept in logs.
    """
    words = ["curl"]
    if request.url.scheme == "https" and (ca_file := os.environ.get(CA_FILE)):
        words += ["--cacert", ca_file]
    if request.method != ("POST" if request.content else "GET"):
        words += ["-X", request.method]
    for name, value in request.headers.items():
        if name == "authorization":
            words += ["-H", _KEY_HEADER]
        elif name not in _IMPLIED_HEADERS:
            words += ["-H", f"{name}: {value}"]
    if request.content:
        words += ["--data-binary", _body_argument(request.content)]
    line = shlex.join([*words, str(request.url)])
    return line.replace(shlex.quote(_KEY_HEADER), f'"{_KEY_HEADER}"')


def _body_argument(body: bytes) -> str:
    if len(body) > _MAX_ARGUMENT_BYTES or body.startswith(b"@") or b"\0" in body:
        return "@-"
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "@-"


def _error_of(response: httpx2.Response, url: str) -> ServerRefused:
    status = response.status_code
    try:
        problem = response.json()
    except (JSONDecodeError, UnicodeDecodeError):
        problem = None
    if not isinstance(problem, dict) or "detail" not in problem:
        message = f"{response.request.url} answered {status} {response.reason_phrase}: is it a Millrace server?"
        return ServerRefused(status, {}, message)
    request_id = f", request {problem['request_id']}" if status >= 500 and "request_id" in problem else ""
    path = response.request.url.raw_path.decode()
    detail = _missing_resource(path, problem) or in_spelling_of_options(problem["detail"])
    root, _, prefix = url.rpartition("://")[2].partition("/")
    if problem.get("code") == "NOT_FOUND" and prefix:
        scheme = url.partition("://")[0]
        detail = f"{url} has no API; without a proxy under /{prefix} the URL of the server is {scheme}://{root}"
    if status == 401:
        detail = f"{hint_of_refused_key()}: {detail}"
    return ServerRefused(status, problem, f"{detail} ({problem.get('code', status)}{request_id})")


def _missing_resource(path: str, problem: Mapping[str, Any]) -> str | None:
    """Return which topic, queue or group is missing, and the commands that list and create them.

    None for other problems.
    """
    if (found := _RESOURCE_PATH.search(path.partition("?")[0])) is None or " of this name" not in problem["detail"]:
        return None
    code, message, creation = _MISSING[found[1]]
    if problem.get("code") != code:
        return None
    text = f"{message}; millrace {found[1]} list shows all, {creation}"
    return text.format(printable(unquote(found[2])))
