"""The OpenAPI document, made of FastAPI's paths and the operations' own descriptions, and `/openapi.json`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.api.http.forwarding import root_path_of
from app.api.http.operations import Description, Operation, OperationRoute, operation_routes
from app.api.http.problems import MEDIA_TYPE, RETRY_STATUSES, STATUS, Problem
from app.domain.access.permission import Permission
from app.domain.log.topic import MAX_PARTITIONS
from app.errors.broker_error import BrokerError
from app.errors.limits import ThrottlingQuotaExceeded

Schema = dict[str, Any]

_ANSWER_EXAMPLES = Path(__file__).parent / "answer_examples.json"
_CACHED_DOCUMENTS = 4
_LINES = "application/x-ndjson"
_MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that JavaScript reads exactly; larger offsets, times and sizes do not occur."""
_NULL: Schema = {"type": "null"}
_REF = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_PARTITION: Schema = {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_PARTITIONS - 1}
_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,249}$"}
_PATH_TEXTS = {
    "topic": "Name of the topic.",
    "partition": "Number of the partition, from 0.",
    "producer_id": "Id that the producer chooses and keeps across restarts.",
    "group": "Name of the consumer group; the first member that joins creates it.",
    "member_id": "Id of the member, chosen by the client or returned by join.",
    "queue": "Name of the queue.",
    "delivery_id": "Copy it from acquire. 1.0.0.1 is the first one, if you ran all examples above.",
    "source": "Name of the source.",
    "webhook": "Name of the webhook.",
    "replay_id": "Id of the replay, from the answer that began it.",
    "key_id": "Id of the key, the part between the underscores.",
    "acl_id": "Id of the entry, from the list.",
    "outcome": "`release` and `renew` keep the record, `accept` and `reject` end it.",
}
_KEY: Schema = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`mr_…`) or a token of the issuer that the server trusts. `X-API-Key` works too.",
}
_RETRY_AFTER: Schema = {
    "Retry-After": {
        "schema": {"type": "integer", "format": "int64", "maximum": _MAX_SAFE_INTEGER},
        "description": "Seconds to wait before the same request is sent again.",
    }
}
_REASONS = {200: "Done", 201: "Created", 202: "Accepted; it runs in the background", 204: "Done; no content"}

DESCRIPTION = """Kafka's event log over plain HTTP, on SQLite or PostgreSQL.

Run the examples from top to bottom on an empty server: each works without changes. Errors are
`application/problem+json` with the schema `Problem`; every `type` is the path of a page with cause and cure.
"""

TAGS = [
    {"name": "topics", "description": "Create, describe, configure, extend and delete topics."},
    {"name": "records", "description": "Produce and fetch records."},
    {"name": "partitions", "description": "Offsets and sizes of partitions; deletion of records."},
    {"name": "producers", "description": "Epochs of idempotent producers."},
    {"name": "members", "description": "Members of consumer groups: join, heartbeat, poll, commit and reset offsets."},
    {
        "name": "transactions",
        "description": "Produce records and commit offsets in one transaction. The example uses the member that joins "
        "above.",
    },
    {"name": "groups", "description": "Consumer groups: describe, list, rebalances, delete; a member leaves."},
    {
        "name": "queues",
        "description": "Queues deliver each record on its own, under a lock: acquire, acknowledge, dead letters.",
    },
    {
        "name": "sources",
        "description": "Sources take in the webhooks of other services: each verified delivery becomes a record.",
    },
    {
        "name": "webhooks",
        "description": "Webhooks post the records of topics to URLs, signed, with retries, dead letters and replays.",
    },
    {"name": "operations", "description": "Health, readiness and metrics."},
    {
        "name": "access",
        "description": "Access control lists, and API keys. Once there is a key, every request needs one: click "
        "Authorize, and enter it.",
    },
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
        servers=[{"url": "/", "description": "The server of this document"}],
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    result["security"] = [{"key": []}, {}]  # the last: a server on a loopback address needs no key before the first
    routes = list(operations(app))
    order = {route.operation.name: number for number, route in enumerate(_shown(routes))}
    examples = _answer_examples()
    result.setdefault("components", {})["securitySchemes"] = {"key": _KEY}
    result["components"]["schemas"] = _schemas([route.operation for route in routes])
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
        (method,) = (name.lower() for name in route.methods or ())
        entry = result["paths"][route.path][method]
        described = _describe(route.operation, examples.get(route.operation.name, {}))
        described |= _permission(route.operation.description.permission, entry.get("description", ""))
        paths.setdefault(route.path, {})[method] = entry | described | {"x-order": order[route.operation.name]}
    result["paths"] = paths
    return result


def _shown(routes: Iterable[OperationRoute]) -> list[OperationRoute]:
    """Return the routes in the order of Swagger UI: by tag; what deletes something is last, so that examples work."""
    tags = [tag["name"] for tag in TAGS]
    numbered = list(enumerate(routes))

    def place(entry: tuple[int, OperationRoute]) -> tuple[int, bool, int]:
        number, route = entry
        deletes = "DELETE" in (route.methods or ())
        return tags.index(str(route.tags[0])), deletes, -route.path.count("/") if deletes else number

    return [route for _, route in sorted(numbered, key=place)]


def _answer_examples() -> dict[str, dict[str, Any]]:
    """Return the stored answers by operation and status; `make examples` stores them."""
    found: dict[str, dict[str, Any]] = msgspec.json.decode(_ANSWER_EXAMPLES.read_bytes())
    return found


def _schemas(operations: list[Operation]) -> dict[str, Schema]:
    requests: list[Any] = []
    answers: list[Any] = [Problem]
    for operation in operations:
        requests += operation.description.body_types
        answers += [answer for answer in operation.description.answers.values() if answer is not None]
        if "body" in operation.parameters:
            requests.append(operation.parameters["body"])
    _, of_requests = msgspec.json.schema_components(requests, ref_template=_REF)
    _, of_answers = msgspec.json.schema_components(answers, ref_template=_REF)
    components = {name: _with_default_texts(_portable(schema)) for name, schema in of_requests.items()}
    components |= {name: _portable(schema, answer=True) for name, schema in of_answers.items()}
    components["Problem"] = _open_problem(components["Problem"])
    return dict(sorted(components.items()))


def _describe(operation: Operation, examples: Mapping[str, Any]) -> Schema:
    description = operation.description
    entry: Schema = {"responses": dict(_responses(description, examples))}
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


def _permission(permission: Permission, text: str) -> Schema:
    """Return what an operation needs, in words for people and as members for programs."""
    if permission.kind == "public":
        return {"security": [], "x-permission": "none"}
    return {
        "description": f"{inspect.cleandoc(text)}\n\nNeeds {permission.describe()} where the server needs keys.",
        "x-permission": permission.describe().replace("`", ""),
    }


def _path(operation: Operation) -> Iterator[Schema]:
    for name in _PATH_PARAMETER.findall(operation.path):
        parameter = {"name": name, "in": "path", "required": True, "schema": _path_schema(operation.parameters[name])}
        yield parameter | {"description": _PATH_TEXTS[name], "example": operation.description.examples[name]}


def _path_schema(hint: object) -> Schema:
    if choices := get_args(hint):
        return {"type": "string", "enum": list(choices)}
    return _PARTITION if hint is int else _NAME


def _query(operation: Operation) -> Iterator[Schema]:
    if "query" not in operation.parameters:
        return
    (_,), components = msgspec.json.schema_components([operation.parameters["query"]], ref_template=_REF)
    properties: dict[str, Schema] = next(iter(components.values()))["properties"]
    for name, schema in properties.items():
        portable = _portable(_not_null(schema))
        text = portable.pop("description")
        parameter: Schema = {"name": name, "in": "query", "required": False, "description": text, "schema": portable}
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
        yield {"name": name, "in": "header", "required": False, **schema, "schema": _portable(schema["schema"])}


def _responses(description: Description, examples: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    for status, answer in description.answers.items():
        response: Schema = {"description": _REASONS[status]}
        content: Schema = {name: dict[str, Any](schema={"type": "string"}) for name in description.media}
        if answer is not None:
            media: Schema = {"schema": {"$ref": _REF.format(name=answer.__name__)}}
            media |= {"example": examples[str(status)]} if str(status) in examples else {}
            content = {"application/json": media} | content
            if _LINES in content and (records := media.get("example", {}).get("records")):
                content[_LINES]["example"] = "".join(msgspec.json.encode(record).decode() + "\n" for record in records)
        if content:
            response["content"] = content
        if description.answer_headers:
            response["headers"] = dict(description.answer_headers)
        yield str(status), response
    by_status: dict[int, list[type[BrokerError]]] = {}
    throttled = () if description.quota is None else (ThrottlingQuotaExceeded,)
    for error in (*description.errors, *throttled):
        by_status.setdefault(STATUS[error], []).append(error)
    for status, errors in sorted(by_status.items()):
        problem = _problem("; ".join(f"`{error.code}`: {error.title}" for error in errors))
        yield str(status), problem | ({"headers": _RETRY_AFTER} if status in RETRY_STATUSES else {})
    yield "default", _problem("Any other problem")


def _problem(text: str) -> Schema:
    return {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}}


def _portable(schema: Schema, *, answer: bool = False) -> Schema:
    """Return a schema of msgspec with explicit types.

    Integers are int64, enums have a type, a nullable type is a list of types, and a description has no indentation
    (before 3.13, Python keeps that of docstrings). Integers are at most `_MAX_SAFE_INTEGER`, except those whose schema
    states a format. A list of objects that can also be written as one object is described as the list.

    Args:
        schema: It is not changed.
        answer: Omit all defaults: in an answer they are values of omitted members. Otherwise omit only null.
    """
    result = {key: _value(key, value, answer=answer) for key, value in schema.items() if key != "anyOf"}
    if "default" in result and (answer or result["default"] is None):
        del result["default"]
    if "anyOf" in schema:
        result |= _union([_portable(option, answer=answer) for option in schema["anyOf"]])
    if "enum" in result and "type" not in result:
        result = {"type": ["string", "null"] if None in result["enum"] else "string", **result}
    if result.get("type") == "integer":
        result = _int64(result)
    return result


def _with_default_texts(schema: Schema) -> Schema:
    """Return the schema of a request body with its defaults in the descriptions.

    The types of openapi-typescript require a member that has a default, and other generators send it.
    """
    properties = {name: dict(each) for name, each in schema.get("properties", {}).items()}
    for each in properties.values():
        if (default := each.pop("default", None)) not in (None, "", []):
            shown = default if isinstance(default, str) else msgspec.json.encode(default).decode()
            each["description"] = f"{each.get('description', '')} By default `{shown}`.".strip()
    return schema | ({"properties": properties} if properties else {})


def _open_problem(schema: Schema) -> Schema:
    """Return the schema of a problem with all codes, and open to more members."""
    codes = sorted({error.code for error in STATUS})
    properties = schema["properties"] | {"code": {"type": "string", "enum": codes}}
    return schema | {"properties": properties, "additionalProperties": True}


def _value(key: str, value: Any, *, answer: bool) -> Any:  # noqa: ANN401 - any JSON
    if key == "properties":
        return {name: _portable(schema, answer=answer) for name, schema in value.items()}
    if key in {"items", "additionalProperties"} and isinstance(value, dict):
        return _portable(value, answer=answer)
    if key == "description":
        return inspect.cleandoc(value)
    return value


def _union(options: list[Schema]) -> Schema:
    """Return the one type that is left besides null, or all options."""
    others = [option for option in options if option != _NULL]
    if any(option.get("type") == "array" for option in others):
        others = [option for option in others if option.get("type") != "object"]
    if len(others) > 1 or "type" not in others[0]:
        return {"anyOf": others if len(others) == len(options) else [*others, _NULL]}
    (other,) = others
    if _NULL not in options:
        return other
    nullable = other | {"type": [other["type"], "null"]}
    return nullable | {"enum": [*other["enum"], None]} if "enum" in other else nullable


def _int64(schema: Schema) -> Schema:
    if "format" in schema:
        return schema
    return schema | {"maximum": min(schema.get("maximum", _MAX_SAFE_INTEGER), _MAX_SAFE_INTEGER), "format": "int64"}
