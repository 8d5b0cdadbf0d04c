"""Operations: msgspec in, msgspec out, complete in the OpenAPI document.

A handler says what it needs by its signature: path parameters by name, `query` and `body` as structs, `call` for
the rest. FastAPI gets the route for its document and its router; the request itself never passes through
FastAPI's own machinery, so a hot route may be reached in front of it (`app/api/http/gateway.py`) and answers the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.api.http.call import Call, Reply
from app.api.http.media import form_refused, media_type_of
from app.api.http.validation_errors import invalid, plain
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest, InvalidRequest, MethodNotAllowed, UnsupportedMediaType
from app.errors.log import UnknownTopicOrPartition

Handler = Callable[..., Awaitable[Reply]]
Binder = Callable[[Call], Any]
Schema = dict[str, Any]
H = TypeVar("H", bound=Handler)

MAX_BODY_DEPTH = 32
MAX_INT64 = 2**63 - 1

_REF = "#/components/schemas/{name}"
_HINTS = {
    "/v1/topics": "; PUT /v1/topics/{topic} creates a topic",
    "/v1/queues": "; PUT /v1/queues/{queue} creates a queue",
    "/v1/topics/{topic}": "; POST /v1/topics/{topic}/records produces",
}
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Description:
    """What the OpenAPI document says of an operation beyond its signature.

    Attributes:
        answers: Struct of each status' JSON body, or several it may be; None for no body.
        refusals: The refusals that are its own.
        examples: A value that works for each parameter, and for `body`.
        bodies: Media types of a body that the handler reads itself, each with schema and example.
        body_types: Structs that the schemas of `bodies` refer to.
        media: Other media types of the first answer.
        hot: Whether it is reached in front of FastAPI.
    """

    answers: Mapping[int, type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None]
    refusals: Sequence[type[BrokerError]] = ()
    examples: Mapping[str, object] = field(default_factory=dict)
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    body_types: Sequence[type[msgspec.Struct]] = ()
    headers: Mapping[str, Schema] = field(default_factory=dict)
    media: Sequence[str] = ()
    hot: bool = False


def describe(description: Description) -> Callable[[H], H]:
    """Attach a description to a handler."""

    def attach(handler: H) -> H:
        handler.description = description  # type: ignore[attr-defined] # a function takes any
        return handler

    return attach


class WireOperation:
    """A handler with the decoding of what it needs."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
        self.handler = handler
        self.name = handler.__name__
        self.description: Description = handler.description  # type: ignore[attr-defined] # set by `describe`
        hints = get_type_hints(handler, include_extras=True)
        self.needs = {name: hints[name] for name in inspect.signature(handler).parameters}
        self._names = [name for name in self.needs if name != "body"]
        self._binders = [_binder(name, self.needs[name]) for name in self._names]
        self._body = _body_decoder(self.needs["body"]) if "body" in self.needs else None
        self._takes_no_query = "query" not in self.needs and path.startswith("/v1/")

    async def __call__(self, call: Call) -> Reply:
        """Decode the request and run the handler."""
        if self._takes_no_query and call.scope["query_string"]:
            raise InvalidRequest("this operation takes no parameters in the query")
        given = [bind(call) for bind in self._binders]
        if self._body is None:
            return await self.handler(*given)
        body = self._body(call, await call.body())
        return await self.handler(**dict(zip(self._names, given, strict=True)), body=body)


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
        """Run the operation, if the method is the route's: the path has been matched."""
        if scope["method"] not in (self.methods or ()):
            routes = [route for route in wire_routes(scope["app"].router.routes) if route.path == self.path]
            allowed = {method for route in routes for method in route.methods or ()}
            allow = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
            raise MethodNotAllowed(f"this path allows {allow}{_HINTS.get(self.path, '')}", allow=allow)
        parameters = {name: str(value) for name, value in scope["path_params"].items()}
        call = Call(scope, receive, send, scope["app"].state.services, parameters)
        await call.run(self.operation)


def wire_routes(routes: Iterable[Any]) -> Iterator[WireRoute]:
    """Return the operations' routes among routes and those of included routers, in order."""
    for route in routes:
        if isinstance(route, WireRoute):
            yield route
        elif (inner := getattr(route, "original_router", None)) is not None:
            yield from wire_routes(inner.routes)


def _binder(name: str, hint: object) -> Binder:
    if name == "call":
        return lambda call: call
    if name == "query":
        return _query_binder(hint)
    if hint is int:
        return lambda call: _partition_number(name, call.parameters[name])
    return lambda call: call.parameters[name]


def _partition_number(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        detail = "must be an integer"
        raise InvalidRequest.at(None, name, detail, message=f"{name} in the path {detail}")
    if text.startswith("-") or len(text) > 9:
        raise UnknownTopicOrPartition(f"there is no {name} of this number")
    return int(text)


def _query_binder(struct: Any) -> Binder:  # noqa: ANN401 - a struct type
    empty = struct()
    hints = get_type_hints(struct)
    numbers = {name for name, hint in hints.items() if hint is int or int in get_args(hint)}
    flags = {name for name, hint in hints.items() if hint is bool}

    def bind(call: Call) -> Any:  # noqa: ANN401 - the struct
        if not call.scope["query_string"]:
            return empty
        given: dict[str, Any] = call.query()
        for name in numbers & given.keys():
            if _INTEGER.fullmatch(given[name]):
                given[name] = int(given[name])
        for name in flags & given.keys():
            given[name] = {"true": True, "false": False}.get(given[name], given[name])
        try:
            return msgspec.convert(given, struct)
        except msgspec.ValidationError as error:
            raise invalid(error, "parameter", struct) from None

    return bind


def _body_decoder(struct: Any) -> Callable[[Call, bytes], Any]:  # noqa: ANN401 - a struct type
    decoder = msgspec.json.Decoder(struct)

    def decode(call: Call, body: bytes) -> Any:  # noqa: ANN401 - the struct
        if not body:
            return decode_json(decoder, b"{}")
        media_type = media_type_of(call)
        form_refused(media_type)
        if media_type and media_type != b"application/json" and not media_type.endswith(b"+json"):
            raise UnsupportedMediaType("the body must be application/json; use: curl --json '{…}' URL")
        decoded = decode_json(decoder, body)
        if is_deeper(body, MAX_BODY_DEPTH):
            raise BadRequest(f"the JSON is nested more than {MAX_BODY_DEPTH} levels deep")
        return decoded

    return decode


def decode_json(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:  # noqa: ANN401 - what it decodes
    """Decode UTF-8 JSON.

    Raises:
        BadRequest: It is not JSON.
        InvalidRequest: It is, but not of the shape; with index and field.
    """
    if not body or body.isspace():
        raise BadRequest("the body is empty; send JSON")
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise invalid(error, "field", decoder.type) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {plain(str(error))}") from None


def decode_lines(decoder: msgspec.json.Decoder[Any], body: bytes, most: int) -> list[Any]:
    """Decode one JSON value a line; blank lines are skipped and do not count.

    Raises:
        BadRequest, InvalidRequest: As `decode_json`, with the index of the line; or there are more than `most`.
    """
    lines = [match.group() for match in islice(_LINE.finditer(body), most + 1)]
    check_records(len(lines), most)
    decode = decoder.decode
    try:
        if body.isascii():
            return [decode(line) for line in lines]
    except (RecursionError, msgspec.DecodeError):
        """The first line that fails is named below."""
    return [_decode_line(index, decoder, line) for index, line in enumerate(lines)]


def check_records(number: int, most: int) -> None:
    """Refuse a request without records, or with too many.

    Raises:
        InvalidRequest: Naming the bound.
    """
    if not 1 <= number <= most:
        raise InvalidRequest.at(None, "records", f"must be 1 to {most} records")


def _decode_line(index: int, decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:  # noqa: ANN401 - what it decodes
    try:
        return decode_json(decoder, line)
    except BrokerError as refusal:
        entry = {"detail": refusal.detail}
        if isinstance(found := refusal.facts.get("errors"), list):
            entry = found[0]
        raise type(refusal)(f"record {index}: {refusal.detail}", errors=[{**entry, "index": index}]) from None


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = [1 if b in b"[{" else -1 for b in range(256)]


def is_deeper(json: bytes, levels: int) -> bool:
    """Return whether JSON is nested more than some levels; it must be valid, or this may take long."""
    if len(json) <= levels or json.count(b"[") + json.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", json).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > levels


def check_bound(name: str, value: int, bound: int) -> None:
    """Refuse a value beyond a bound that the settings lower.

    Raises:
        InvalidRequest: Naming the bound.
    """
    if value > bound:
        raise InvalidRequest.at(None, name, f"must be at most {bound}")
