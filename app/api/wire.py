"""Operations: msgspec in, msgspec out, complete in the OpenAPI document.

A handler says what it needs by its signature: path parameters by name, `query` and `body` as structs, `call` for
the rest. FastAPI gets the route for its document and its router; the request itself never passes through
FastAPI's own machinery, so a hot route may be reached in front of it (`app/api/shell.py`) and answers the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

import msgspec
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.api.call import Call, Reply
from app.errors import BadRequest, BrokerError, InvalidRequest, UnknownTopicOrPartition, UnsupportedMediaType

Handler = Callable[..., Awaitable[Reply]]
Binder = Callable[[Call], Any]
Schema = dict[str, Any]
H = TypeVar("H", bound=Handler)

MAX_BODY_DEPTH = 32
MAX_INT64 = 2**63 - 1

_REF = "#/components/schemas/{name}"
_FORMS = {b"application/x-www-form-urlencoded", b"multipart/form-data"}
_PLACE = re.compile(r"^(?P<detail>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_INDEX = re.compile(r"\[(\d+)\]")

CURL_HINT = (
    "the body has a form type, which is what curl -d sends; use: curl --json '{…}' URL, "
    "or with a curl before 7.82: curl -H 'Content-Type: application/json' -d '{…}' URL"
)


@dataclass(frozen=True, slots=True)
class Description:
    """What the OpenAPI document says of an operation beyond its signature.

    Attributes:
        answers: Struct of each status' JSON body; None for no body.
        refusals: The refusals that are its own.
        examples: A value that works for each parameter, and for `body`.
        bodies: Media types of a body that the handler reads itself, each with schema and example.
        media: Other media types of the first answer.
        hot: Whether it is reached in front of FastAPI.
    """

    answers: Mapping[int, type[msgspec.Struct] | None]
    refusals: Sequence[type[BrokerError]] = ()
    examples: Mapping[str, object] = field(default_factory=dict)
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    media: Sequence[str] = ()
    hot: bool = False


def describe(description: Description) -> Callable[[H], H]:
    """Attach a description to a handler."""

    def attach(handler: H) -> H:
        handler.description = description  # type: ignore[attr-defined]
        return handler

    return attach


def form_refused(media_type: bytes) -> None:
    """Refuse form types.

    Raises:
        UnsupportedMediaType: With the commands that work.
    """
    if media_type in _FORMS:
        raise UnsupportedMediaType(CURL_HINT)


def media_type_of(call: Call) -> bytes:
    """Return the Content-Type without its parameters, in lower case; empty without one."""
    value = call.header(b"content-type")
    return b"" if value is None else value.partition(b";")[0].strip().lower()


class WireOperation:
    """A handler with the decoding of what it needs."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
        self.handler = handler
        self.name = handler.__name__
        self.description: Description = handler.description  # type: ignore[attr-defined]
        hints = get_type_hints(handler, include_extras=True)
        self.needs = {name: hints[name] for name in inspect.signature(handler).parameters}
        self._binders: list[tuple[str, Binder]] = [
            (name, _binder(name, hint)) for name, hint in self.needs.items() if name not in {"body", "call"}
        ]
        self._body = _body_decoder(self.needs["body"]) if "body" in self.needs else None
        self._takes_call = "call" in self.needs

    async def __call__(self, call: Call) -> Reply:
        """Decode the request, run the handler, and count the answer."""
        given: dict[str, Any] = {name: bind(call) for name, bind in self._binders}
        if self._body is not None:
            given["body"] = self._body(call, await call.body())
        if self._takes_call:
            given["call"] = call
        return await self.handler(**given)


class WireRoute(APIRoute):
    """A route that FastAPI documents and matches, and that runs its operation on bare ASGI."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        self.operation = WireOperation(path, endpoint)
        summary = inspect.getdoc(endpoint) or ""
        first, _, rest = summary.partition("\n")

        async def documented() -> None:
            """Stand for the handler in FastAPI, which is to see no parameters."""

        documented.__name__ = endpoint.__name__
        documented.__doc__ = rest.strip()
        options |= {
            "operation_id": endpoint.__name__,
            "summary": first.rstrip("."),
            "description": rest.strip(),
            "response_model": None,
            "status_code": next(iter(self.operation.description.answers)),
            "openapi_extra": None,
            "responses": None,
        }
        super().__init__(path, documented, **options)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the operation; the scope has been matched."""
        parameters = {name: str(value) for name, value in scope["path_params"].items()}
        call = Call(scope, receive, send, scope["app"].state.services, parameters)
        await call.run(self.operation)


def _binder(name: str, hint: object) -> Binder:
    if name == "query":
        return _query_binder(hint)
    if hint is int:
        return lambda call: _partition_number(name, call.parameters[name])
    return lambda call: call.parameters[name]


def _partition_number(name: str, text: str) -> int:
    try:
        number = int(text) if len(text) < 20 and text.isascii() else None
    except ValueError:
        number = None
    if number is None:
        raise InvalidRequest(
            f"{name} in the path must be an integer", errors=[{"field": name, "detail": "must be an integer"}]
        )
    if number < 0:
        raise UnknownTopicOrPartition("partitions are numbered from 0")
    return number


def _query_binder(struct: Any) -> Binder:  # noqa: ANN401 - a struct type
    empty = struct()

    def bind(call: Call) -> Any:  # noqa: ANN401 - the struct
        if not call.scope["query_string"]:
            return empty
        return convert(call.query(), struct)

    return bind


def convert(parameters: Mapping[str, str], struct: Any) -> Any:  # noqa: ANN401 - a struct type
    """Turn parameters, all of them text, into a struct.

    Raises:
        InvalidRequest: Naming the parameter and its bound.
    """
    try:
        return msgspec.convert(parameters, struct, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "parameter") from None


def _body_decoder(struct: Any) -> Callable[[Call, bytes], Any]:  # noqa: ANN401 - a struct type
    decoder = msgspec.json.Decoder(struct)

    def decode(call: Call, body: bytes) -> Any:  # noqa: ANN401 - the struct
        if not body:
            return decode_json(decoder, b"{}")
        media_type = media_type_of(call)
        form_refused(media_type)
        if media_type and media_type != b"application/json" and not media_type.endswith(b"+json"):
            raise UnsupportedMediaType("the body must be application/json; use: curl --json '{…}' URL")
        if body.count(b"[") + body.count(b"{") > MAX_BODY_DEPTH and depth(body) > MAX_BODY_DEPTH:
            raise BadRequest(f"the JSON is nested more than {MAX_BODY_DEPTH} levels deep")
        return decode_json(decoder, body)

    return decode


def decode_json(decoder: msgspec.json.Decoder[Any], body: bytes, *, lines: bool = False) -> Any:  # noqa: ANN401
    """Decode UTF-8 JSON.

    Raises:
        BadRequest: It is not JSON.
        InvalidRequest: It is, but not of the shape; with index and field.
    """
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode_lines(body) if lines else decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise invalid(error, "field") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {_plain(str(error))}") from None


def invalid(error: msgspec.ValidationError, noun: str) -> InvalidRequest:
    """Turn msgspec's words into a refusal with index and field."""
    match = _PLACE.match(str(error))
    detail = _plain(match["detail"] if match else "is invalid")
    path = (match["path"] if match else None) or ""
    entry: dict[str, object] = {"detail": detail}
    if index := _INDEX.search(path):
        entry["index"] = int(index[1])
    if name := _INDEX.sub("", path.removeprefix(".records")).strip("."):
        entry["field"] = _plain(name)
    place = f"{noun} {entry['field']}: " if "field" in entry else ""
    record = f"record {entry['index']}: " if "index" in entry else ""
    return InvalidRequest(f"{record}{place}{detail}", errors=[entry])


def _plain(text: str) -> str:
    """Return a message of the decoder without what the caller sent at length."""
    text = text.encode("ascii", "replace").decode().replace("`", "")
    return text if len(text) <= 200 else text[:197] + "..."


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_UP = bytes(b in b"[{" for b in range(256))


def depth(body: bytes) -> int:
    """Return how deeply valid JSON is nested."""
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    level = deepest = 0
    for is_open in brackets.translate(_UP):
        level += 1 if is_open else -1
        deepest = max(deepest, level)
    return deepest


def check_bound(name: str, value: int, bound: int) -> None:
    """Refuse a value beyond a bound that the settings lower.

    Raises:
        InvalidRequest: Naming the bound.
    """
    if value > bound:
        detail = f"must be at most {bound}"
        raise InvalidRequest(f"{name} {detail}", errors=[{"field": name, "detail": detail}])
