"""The OpenAPI document: exported and complete, with working examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from app.api.documents.openapi import document, operations
from app.api.http.problems import STATUS
from tests.e2e.support.answer_examples import run_examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

EXPORTED = Path(__file__).resolve().parent.parent / "openapi" / "openapi.json"
SECRET_KEY = "bWlsbHJhY2UgdGVzdHMgdXNlIHRoaXMgc2VjcmV0IDE="
"""Without it, a server on PostgreSQL stores no secrets."""
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.fixture
async def described(serve: Serve) -> Any:
    application, client = await serve()
    served = (await client.get("/openapi.json")).json()
    assert served == json.loads(json.dumps(document(application.api)))
    return served


def described_operations(described: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield path, method and description of each operation, in the order of the document."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


async def test_the_exported_document_equals_the_served_one(described: Any) -> None:
    assert json.loads(EXPORTED.read_text()) == described, "the API has changed; run: make openapi"


async def test_an_operation_id_is_the_name_of_its_handler(serve: Serve) -> None:
    application, _ = await serve()
    found = {operation["operationId"] for _, _, operation in described_operations(document(application.api))}

    assert found == {route.operation.handler.__name__ for route in operations(application.api)}
    assert len(found) == len(list(operations(application.api)))


async def test_the_description_of_every_operation_is_complete(described: Any) -> None:
    for path, method, operation in described_operations(described):
        name = operation["operationId"]
        assert operation["summary"], name
        assert operation["tags"], name
        successes = [status for status in operation["responses"] if status.startswith("2")]
        assert successes, name
        for status in successes:
            if status != "204":
                schemas = [media["schema"] for media in operation["responses"][status]["content"].values()]
                assert schemas, name
                assert all(schemas), name
        assert operation["responses"]["default"]["content"] == PROBLEM, name
        assert operation.get("description"), name
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], (name, parameter)
            assert parameter.get("description"), (name, parameter["name"])
            assert parameter["schema"].keys() & {"enum", "default", "examples"} or "example" in parameter, (
                name,
                parameter["name"],
            )
            if parameter["required"]:
                assert "example" in parameter, (name, parameter["name"])
        in_path = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}, name
        assert method in {"get", "put", "patch", "post", "delete", "options"}


async def test_the_text_of_a_delivery_id_refers_to_acquire(described: Any) -> None:
    operation = described["paths"]["/v1/queues/{queue}/deliveries/{delivery_id}/{outcome}"]["post"]
    texts = {parameter["name"]: parameter.get("description", "") for parameter in operation["parameters"]}
    assert "Copy it from acquire" in texts["delivery_id"]


async def test_every_reference_has_a_schema_and_every_schema_a_reference(described: Any) -> None:
    schemas = described["components"]["schemas"]
    found = {reference.removeprefix("#/components/schemas/") for reference in references(described)}

    assert found == set(schemas)


def described_texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(text := node.get("description"), str):
            yield text
        for child in node.values():
            yield from described_texts(child)
    elif isinstance(node, list):
        for child in node:
            yield from described_texts(child)


async def test_no_line_of_a_description_is_indented(described: Any) -> None:
    lines = [line for text in described_texts(described) for line in text.splitlines()]

    assert len(lines) > 200
    assert [line for line in lines if line != line.strip()] == []


def described_schemas(node: Any) -> Iterator[Any]:
    """Yield every object of the document that has a type, an enum or alternatives."""
    if isinstance(node, dict):
        if {"type", "enum", "anyOf"} & node.keys() and not isinstance(node.get("type"), dict):
            yield node
        for name, child in node.items():
            if name not in {"example", "examples"}:
                yield from described_schemas(child)
    elif isinstance(node, list):
        for child in node:
            yield from described_schemas(child)


def schemas_of_answers(described: Any) -> dict[str, Any]:
    """Return the schemas that answers refer to, directly or through others."""
    schemas = described["components"]["schemas"]
    waiting = [operation["responses"] for _, _, operation in described_operations(described)]
    found: dict[str, Any] = {}
    while waiting:
        for reference in references(waiting.pop()):
            name = reference.removeprefix("#/components/schemas/")
            if name not in found:
                found[name] = schemas[name]
                waiting.append(schemas[name])
    return found


async def test_every_integer_is_an_int64_within_the_range_of_javascript(described: Any) -> None:
    integers = [each for each in described_schemas(described) if "integer" in each.get("type", ())]

    assert len(integers) > 100
    assert [each for each in integers if each.get("format") != "int64"] == []
    assert [each for each in integers if each.get("maximum", 0) > 2**53 - 1] == []
    unbounded = {
        name
        for schema in described["components"]["schemas"].values()
        for name, each in schema.get("properties", {}).items()
        if each in integers and "maximum" not in each
    }
    assert unbounded == {"retention_ms", "retention_bytes", "delete_retention_ms", "min_compaction_lag_ms"}
    assert len([each for each in integers if "maximum" not in each]) == 8, "in TopicConfig and in ConfigChange"


async def test_the_document_states_the_bounds_that_the_server_checks(described: Any) -> None:
    schemas = described["components"]["schemas"]
    bounds = {
        (struct, name): (schemas[struct]["properties"][name]["minimum"], schemas[struct]["properties"][name]["maximum"])
        for struct, name in [
            ("TopicChange", "partitions"),
            ("ConfigChange", "max_message_bytes"),
            ("QueueSettings", "lock_duration_ms"),
            ("QueueChange", "max_delivery_count"),
        ]
    }

    assert bounds == {
        ("TopicChange", "partitions"): (1, 1_000),
        ("ConfigChange", "max_message_bytes"): (1, 33_554_432),
        ("QueueSettings", "lock_duration_ms"): (1_000, 3_600_000),
        ("QueueChange", "max_delivery_count"): (1, 100),
    }
    assert schemas["ConfigChange"]["properties"]["retention_ms"]["minimum"] == -1


async def test_every_enum_has_a_type(described: Any) -> None:
    enums = [each for each in described_schemas(described) if "enum" in each]

    assert len(enums) > 10
    assert [each for each in enums if each.get("type") not in ("string", ["string", "null"])] == []


async def test_only_parameters_have_defaults_and_none_of_null(described: Any) -> None:
    schemas = described["components"]["schemas"]

    assert [each for each in described_schemas(schemas) if "default" in each] == []
    assert [each for each in described_schemas(described) if each.get("default", ...) is None] == []
    assert schemas["RecordIn"]["properties"]["encoding"]["description"] == "By default `json`."
    assert schemas["RedriveRequest"]["properties"]["dry_run"]["description"].endswith("By default `true`.")
    assert schemas["AcquireRequest"]["properties"]["max_records"]["description"].endswith("By default `10`.")


async def test_an_answer_has_one_schema_for_each_media_type(described: Any) -> None:
    assert [each for each in described_schemas(schemas_of_answers(described)) if "anyOf" in each] == []
    for _, _, operation in described_operations(described):
        for answer in operation["responses"].values():
            for media in answer.get("content", {}).values():
                assert media["schema"].keys() <= {"$ref", "type"}, operation["operationId"]


async def test_the_problem_lists_all_codes_and_is_open_to_more_members(described: Any) -> None:
    problem = described["components"]["schemas"]["Problem"]

    assert problem["properties"]["code"] == {"type": "string", "enum": sorted({error.code for error in STATUS})}
    assert problem["properties"]["log_start_offset"] == {"type": "integer", "format": "int64", "maximum": 2**53 - 1}
    assert problem["additionalProperties"] is True


async def test_headers_of_a_record_are_described_as_a_list(described: Any) -> None:
    for name in ("RecordIn", "ProduceBody"):
        headers = described["components"]["schemas"][name]["properties"]["headers"]
        assert headers == {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/HeaderIn"}}


async def test_metrics_are_described_as_text_only(described: Any) -> None:
    answer = described["paths"]["/metrics"]["get"]["responses"]["200"]

    assert answer["content"] == {"text/plain": {"schema": {"type": "string"}}}


async def test_the_outcome_in_a_path_is_an_enum(described: Any) -> None:
    operation = described["paths"]["/v1/queues/{queue}/deliveries/{delivery_id}/{outcome}"]["post"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}

    assert schemas["outcome"] == {"type": "string", "enum": ["accept", "release", "reject", "renew"]}


async def test_the_document_has_a_server_and_the_headers_of_answers(described: Any) -> None:
    fetch = described["paths"]["/v1/topics/{topic}/partitions/{partition}/records"]["get"]

    assert described["security"] == [{"key": []}, {}]
    assert described["servers"] == [{"url": "/", "description": "The server of this document"}]
    assert fetch["operationId"] == "fetch_partition"
    assert set(fetch["responses"]["200"]["headers"]) == {"Link"}
    for _, _, operation in described_operations(described):
        for status, answer in operation["responses"].items():
            if status in {"429", "503", "507"}:
                assert set(answer["headers"]) == {"Retry-After"}, operation["operationId"]


async def test_no_operation_offers_headers_that_the_client_sets_itself(described: Any) -> None:
    names = {
        parameter["name"].lower()
        for _, _, operation in described_operations(described)
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    }

    assert names == {
        "idempotency-key",
        "last-event-id",
        "prefer",
        "producer-epoch",
        "producer-id",
        "producer-sequence",
        "webhook-request-origin",
        "x-hub-signature-256",
    }


async def test_examples_of_bodies_of_lines_are_lines(described: Any) -> None:
    produce = described["paths"]["/v1/topics/{topic}/records"]["post"]

    for media_type in ("application/x-ndjson", "application/jsonl"):
        lines = produce["requestBody"]["content"][media_type]["example"].splitlines()
        assert [json.loads(line)["key"] for line in lines] == ["alice", "bob"]


async def test_an_answer_of_lines_has_the_records_of_the_json_example(described: Any) -> None:
    operations = [operation for _, _, operation in described_operations(described)]
    contents = [each["responses"]["200"].get("content", {}) for each in operations if "200" in each["responses"]]
    of_lines = [content for content in contents if "application/x-ndjson" in content]

    assert len(of_lines) == 2
    for content in of_lines:
        lines = content["application/x-ndjson"]["example"].splitlines()
        assert lines
        assert [json.loads(line) for line in lines] == content["application/json"]["example"]["records"]


async def test_every_tag_is_described(described: Any) -> None:
    used = {tag for _, _, operation in described_operations(described) for tag in operation["tags"]}

    assert used == {tag["name"] for tag in described["tags"]}


async def test_every_example_works_in_the_order_of_swagger_ui_on_an_empty_server(
    serve: Serve, migrated_url: str
) -> None:
    application, client = await serve(database_url=migrated_url, secret_key=SECRET_KEY)

    async for operation, media_type, answer in run_examples(application.api, client):
        name = operation["operationId"]
        assert str(answer.status_code) in operation["responses"], (name, media_type)
        assert answer.status_code < 300, (name, media_type, answer.text)
        if name.startswith("list_") and name != "list_source_refusals":  # no example is refused
            assert next(iter(answer.json().values())), name


async def test_every_answer_has_an_example_that_fits_its_schema(described: Any) -> None:
    schemas = {"components": described["components"]}
    missing = []
    for _, _, operation in described_operations(described):
        content = next(iter(operation["responses"].values())).get("content", {})
        media = content.get("application/json")
        if media is None:
            continue
        if "example" not in media:
            missing.append(operation["operationId"])
            continue
        validator = jsonschema_rs.Draft202012Validator(media["schema"] | schemas)
        assert not [error.message for error in validator.iter_errors(media["example"])], operation["operationId"]
    assert missing == [], "run: make examples openapi"
