"""The OpenAPI document, made of FastAPI's paths and the operations' own descriptions, and `/openapi.json`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.api.http.forwarding import root_path_of
from app.api.http.operations import Description, Operation, OperationRoute, operation_routes
from app.api.http.problems import MEDIA_TYPE, STATUS, Problem
from app.errors.broker_error import BrokerError

Schema = dict[str, Any]

_CACHED_DOCUMENTS = 4
_REF = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_PARTITION: Schema = {"type": "integer", "minimum": 0}
_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,249}$"}
_PATH_TEXTS = {"delivery_id": "Copy it from acquire. 2.0.0.1 is the first one, if you ran all examples above."}
_REASONS = {200: "Done", 201: "Created", 204: "Done; no content"}

DESCRIPTION = """Kafka's event log over plain HTTP, on SQLite or PostgreSQL.

Run the examples from top to bottom on an empty server: each works without changes. Errors are
`application/problem+json`; every `type` is the path of a page with cause and cure.
"""

TAGS = [
    {"name": "topics", "description": "Create, describe, configure, extend and delete topics."},
    {"name": "records", "description": "Produce and fetch records."},
    {"name": "partitions", "description": "Offsets and sizes of partitions; deletion of records."},
    {"name": "producers", "description": "Epochs of idempotent producers."},
    {"name": "groups", "description": "Consumer groups: members, offsets, rebalances."},
    {
        "name": "transactions",
        "description": "Produce records and commit offsets in one transaction. The example uses the member that the "
        "examples of the groups join; run it before that member leaves.",
    },
    {
        "name": "queues",
        "description": "Queues deliver each record on its own, under a lock: acquire, acknowledge, dead letters.",
    },
    {"name": "operations", "description": "Health, readiness and metrics."},
]


def operations(app: FastAPI) -> Iterator[OperationRoute]:
    """Return the routes of all operations, in the order of the document."""
    return operation_routes(app.router.routes)


def openapi_route(app: FastAPI) -> Route:
    """Return the route of `/openapi.json`; the document is built at the first request."""

    @lru_cache(_CACHED_DOCUMENTS)
    def encoded(root_path: str) -> bytes:
        servers = {"servers": [{"url": root_path}]} if root_path else {}
        return msgspec.json.encode(document(app) | servers) + b"\n"

    async def openapi_json(request: Request) -> Response:
        return Response(encoded(root_path_of(request.scope)), media_type="application/json")

    return Route("/openapi.json", openapi_json, methods=["GET"])


def document(app: FastAPI) -> Schema:
    """Return the whole OpenAPI document."""
    result = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    routes = list(operations(app))
    result.setdefault("components", {})["schemas"] = _schemas([route.operation for route in routes])
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
        (method,) = (name.lower() for name in route.methods or ())
        entry = result["paths"][route.path][method]
        paths.setdefault(route.path, {})[method] = entry | _describe(route.operation)
    result["paths"] = paths
    return result


def _schemas(operations: list[Operation]) -> dict[str, Schema]:
    types: list[Any] = [Problem]
    for operation in operations:
        types += operation.description.body_types
        types += [struct for answer in operation.description.answers.values() for struct in _structs(answer)]
        if "body" in operation.parameters:
            types.append(operation.parameters["body"])
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    return {name: _clean(schema) for name, schema in sorted(components.items())}


def _clean(schema: Schema) -> Schema:
    """Return a schema whose description has no indentation: Python keeps that of docstrings before 3.13."""
    return schema | {"description": inspect.cleandoc(schema["description"])}


def _structs(answer: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None) -> tuple[type, ...]:
    if answer is None:
        return ()
    return answer if isinstance(answer, tuple) else (answer,)


def _describe(operation: Operation) -> Schema:
    description = operation.description
    entry: Schema = {"responses": dict(_responses(description))}
    if parameters := [*_path(operation), *_query(operation), *_headers(description)]:
        entry["parameters"] = parameters
    if description.bodies:
        entry["requestBody"] = {"required": True, "content": dict(description.bodies)}
    elif "body" in operation.parameters:
        media: Schema = {"schema": {"$ref": _REF.format(name=operation.parameters["body"].__name__)}}
        if "body" in description.examples:
            media["example"] = description.examples["body"]
        entry["requestBody"] = {"required": False, "content": {"application/json": media}}
    return entry


def _path(operation: Operation) -> Iterator[Schema]:
    for name in _PATH_PARAMETER.findall(operation.path):
        schema = _PARTITION if operation.parameters[name] is int else _NAME
        parameter = {"name": name, "in": "path", "required": True, "schema": schema}
        parameter |= {"description": _PATH_TEXTS[name]} if name in _PATH_TEXTS else {}
        yield parameter | {"example": operation.description.examples[name]}


def _query(operation: Operation) -> Iterator[Schema]:
    if "query" not in operation.parameters:
        return
    (_,), components = msgspec.json.schema_components([operation.parameters["query"]], ref_template=_REF)
    properties: dict[str, Schema] = next(iter(components.values()))["properties"]
    for name, schema in properties.items():
        text = schema.pop("description", None)
        parameter: Schema = {"name": name, "in": "query", "required": False, "schema": _not_null(schema)}
        if text:
            parameter["description"] = text
        if name in operation.description.examples:
            parameter["example"] = operation.description.examples[name]
        yield parameter


def _not_null(schema: Schema) -> Schema:
    """Return a parameter's schema without null: a client omits a parameter instead."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if schema.get("default", ...) is None:
        del schema["default"]
    if len(options) == 1:
        (option,) = options
        return {key: value for key, value in schema.items() if key != "anyOf"} | dict(option)
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    return schema


def _headers(description: Description) -> Iterator[Schema]:
    for name, schema in description.headers.items():
        yield {"name": name, "in": "header", "required": False, **schema}


def _responses(description: Description) -> Iterator[tuple[str, Schema]]:
    for status, answer in description.answers.items():
        response: Schema = {"description": _REASONS[status]}
        if references := [{"$ref": _REF.format(name=struct.__name__)} for struct in _structs(answer)]:
            content: Schema = {
                "application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}
            }
            content |= {media: {"schema": {"type": "string"}} for media in description.media}
            response["content"] = content
        yield str(status), response
    by_status: dict[int, list[type[BrokerError]]] = {}
    for error in description.errors:
        by_status.setdefault(STATUS[error], []).append(error)
    for status, errors in sorted(by_status.items()):
        yield str(status), _problem("; ".join(f"`{error.code}`: {error.title}" for error in errors))
    yield "default", _problem("Any other problem")


def _problem(text: str) -> Schema:
    return {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}}
