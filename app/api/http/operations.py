"""Operations: handlers with msgspec structs, and their routes in FastAPI.

The signature of a handler declares its input: path parameters by name, `query` and `body` as structs, `call` for
everything else. FastAPI uses the route for the OpenAPI document and for matching paths. FastAPI does not decode the
request, so the gateway can run a hot operation without FastAPI, and the answer is the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.api.http.bodies.json_bodies import check_names, decode_json, without_bom
from app.api.http.call import Call, Reply
from app.api.http.hints.paths import MethodSummary, describe_method
from app.api.http.media import media_type_of, require_json
from app.api.http.validation_errors import invalid_request_of
from app.domain.access.permission import Permission, is_change
from app.domain.limits.quotas import QuotaKind
from app.domain.log.json_pointer import is_deeper
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest, InvalidRequest, MethodNotAllowed
from app.errors.log import UnknownTopicOrPartition

Handler = Callable[..., Awaitable[Reply]]
Binder = Callable[[Call], Any]
Schema = dict[str, Any]
H = TypeVar("H", bound=Handler)

MAX_BODY_DEPTH = 32
MAX_INT64 = 2**63 - 1

_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Description:
    """What the OpenAPI document contains about an operation, besides its signature.

    Attributes:
        permission: What a principal needs to run the operation.
        answers: Struct of the JSON body for each status; None for no JSON.
        errors: The errors that the document lists for this operation.
        examples: A working value for each parameter and for `body`.
        bodies: Media types of a body that the handler decodes itself, each with schema and example.
        body_types: Structs that the schemas in `bodies` refer to.
        headers: Request headers, each with its schema.
        answer_headers: Headers of the answers, each with its schema.
        media: Other media types of the answers.
        audited: Whether the audit topic records it, besides operations that create, alter or delete something.
        any_query: Whether the handler takes the query as it is.
        quota: The quota in which the operation is counted; None for none.
        hot: Whether the gateway runs the operation without FastAPI.
    """

    permission: Permission
    answers: Mapping[int, type[msgspec.Struct] | None]
    errors: Sequence[type[BrokerError]] = ()
    examples: Mapping[str, object] = field(default_factory=dict)
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    body_types: Sequence[type[msgspec.Struct]] = ()
    headers: Mapping[str, Schema] = field(default_factory=dict)
    answer_headers: Mapping[str, Schema] = field(default_factory=dict)
    media: Sequence[str] = ()
    audited: bool = False
    any_query: bool = False
    quota: QuotaKind | None = None
    hot: bool = False


def describe(description: Description) -> Callable[[H], H]:
    """Attach a description to a handler."""

    def attach(handler: H) -> H:
        handler.description = description  # type: ignore[attr-defined] # an attribute of the function
        return handler

    return attach


class Operation:
    """A handler and the decoders of its arguments."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
        self.handler = handler
        self.name = handler.__name__
        self.description: Description = handler.description  # type: ignore[attr-defined] # set by `describe`
        hints = get_type_hints(handler, include_extras=True)
        self.parameters = {name: hints[name] for name in inspect.signature(handler).parameters}
        self._names = [name for name in self.parameters if name != "body"]
        self._binders = [_binder(name, self.parameters[name]) for name in self._names]
        self._body = _body_decoder(self.parameters["body"]) if "body" in self.parameters else None
        self.is_audited = self.description.audited or is_change(self.description.permission)
        self._takes_no_query = (
            "query" not in self.parameters and path.startswith("/v1/") and not self.description.any_query
        )

    async def __call__(self, call: Call) -> Reply:
        """Decode the request and run the handler."""
        if self._takes_no_query and call.scope["query_string"]:
            raise self._unexpected_query(call)
        arguments = [bind(call) for bind in self._binders]
        if self._body is None:
            return await self.handler(*arguments)
        body = await call.decode(partial(self._body, call))
        if self.is_audited:
            call.audited_body = body
        return await self.handler(**dict(zip(self._names, arguments, strict=True)), body=body)

    def _unexpected_query(self, call: Call) -> InvalidRequest:
        """Return the error for a query that the operation does not take; fields of the body belong there."""
        given = call.query()
        fields = getattr(self.parameters.get("body"), "__struct_fields__", ())
        inside = [f'"{name}":…' for name in given if name in fields]
        hint = f"; send {{{','.join(inside)}}} as JSON in the body" if inside else ""
        return InvalidRequest(f"this operation takes no parameters in the query{hint}")


class OperationRoute(APIRoute):
    """A route that FastAPI documents and matches; the operation itself runs on plain ASGI."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:  # noqa: ANN401 - FastAPI's options
        self.operation = Operation(path, endpoint)
        summary = inspect.getdoc(endpoint) or ""
        first, _, rest = summary.partition("\n")

        async def documented() -> None:
            """Stand in for the handler, so that FastAPI finds no parameters."""

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
        """Run the operation; FastAPI has matched the path.

        Raises:
            MethodNotAllowed: The path has no operation for the method.
        """
        if scope["method"] not in (self.methods or ()):
            allowed = {
                method: MethodSummary(route.summary or "", route.operation.description.examples.get("body"))
                for route in operation_routes(scope["app"].router.routes)
                if route.path == self.path
                for method in route.methods or ()
            }
            allow = ", ".join(sorted({*allowed, *(("HEAD",) if "GET" in allowed else ())}))
            hint = describe_method(self.path, scope["method"], allowed)
            raise MethodNotAllowed(f"this path allows {allow}{hint}", allow=allow)
        parameters = {name: str(value) for name, value in scope["path_params"].items()}
        state = scope["app"].state
        operation = state.traced.get(self.operation.name, self.operation)
        await Call(scope, receive, send, state.services, parameters).run(operation)


def operation_routes(routes: Iterable[Any]) -> Iterator[OperationRoute]:
    """Return the `OperationRoute`s of a list of routes and of its included routers, in order."""
    for route in routes:
        if isinstance(route, OperationRoute):
            yield route
        elif (inner := getattr(route, "original_router", None)) is not None:
            yield from operation_routes(inner.routes)


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
        detail = "must be an integer from 0, in decimal digits"
        raise InvalidRequest.at(None, name, detail, message=f"{name} in the path {detail}, such as 0")
    if text.startswith("-") or len(text) > 9:
        hint = "partitions have numbers from 0; GET /v1/topics/{topic}/partitions lists them"
        raise UnknownTopicOrPartition(f"there is no {name} {text}; {hint}")
    return int(text)


def _query_binder(struct: Any) -> Binder:  # noqa: ANN401 - a struct type
    defaults = struct()
    hints = get_type_hints(struct)
    numbers = {name for name, hint in hints.items() if hint is int or int in get_args(hint)}
    flags = {name for name, hint in hints.items() if hint is bool}

    def bind(call: Call) -> Any:  # noqa: ANN401 - the struct
        if not call.scope["query_string"]:
            return defaults
        values: dict[str, Any] = call.query()
        for name in numbers & values.keys():
            if _INTEGER.fullmatch(values[name]):
                values[name] = int(values[name])
        for name in flags & values.keys():
            values[name] = {"true": True, "false": False}.get(values[name], values[name])
        try:
            return msgspec.convert(values, struct)
        except msgspec.ValidationError as error:
            raise invalid_request_of(error, "parameter", struct) from None

    return bind


def _body_decoder(struct: Any) -> Callable[[Call, bytes], Any]:  # noqa: ANN401 - a struct type
    decoder = msgspec.json.Decoder(struct)

    def decode(call: Call, body: bytes) -> Any:  # noqa: ANN401 - the struct
        if not body:
            return decode_json(decoder, b"{}")
        require_json(media_type_of(call))
        body = without_bom(body)
        given = body.strip()
        if not given or given == b"null":
            return decode_json(decoder, b"{}")
        decoded = decode_json(decoder, body)
        check_names(body)
        if is_deeper(body, MAX_BODY_DEPTH):
            raise BadRequest(f"the JSON is nested more than {MAX_BODY_DEPTH} levels deep")
        return decoded

    return decode


def check_bound(name: str, value: int, bound: int) -> None:
    """Refuse a value above a bound that comes from the settings.

    Raises:
        InvalidRequest: With the bound.
    """
    if value > bound:
        raise InvalidRequest.at(None, name, f"must be at most {bound}")
