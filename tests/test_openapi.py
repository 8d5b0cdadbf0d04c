"""The OpenAPI document: exported and complete, with working examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.api.http.openapi import document, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

EXPORTED = Path(__file__).resolve().parent.parent / "openapi" / "openapi.json"
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
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], (name, parameter)
            if parameter["required"]:
                assert "example" in parameter, (name, parameter["name"])
        in_path = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}, name
        assert method in {"get", "put", "patch", "post", "delete"}


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


async def test_every_tag_is_described(described: Any) -> None:
    used = {tag for _, _, operation in described_operations(described) for tag in operation["tags"]}

    assert used == {tag["name"] for tag in described["tags"]}


async def test_every_example_works_in_the_order_of_the_document_on_an_empty_server(
    serve: Serve, migrated_url: str
) -> None:
    application, client = await serve(database_url=migrated_url)
    described = document(application.api)

    for path, method, operation in described_operations(described):
        parameters = operation.get("parameters", [])
        filled = {(p["in"], p["name"]): p["example"] for p in parameters if "example" in p}
        url = path.format(**{name: value for (location, name), value in filled.items() if location == "path"})
        query = {name: value for (location, name), value in filled.items() if location == "query"}
        headers = {name: str(value) for (location, name), value in filled.items() if location == "header"}
        bodies = operation.get("requestBody", {}).get("content", {}) or {None: {}}
        for media_type, media in bodies.items():
            response = await run(client, method, url, query, headers, media_type, media.get("example", ""))
            assert str(response.status_code) in operation["responses"], (operation["operationId"], media_type)
            assert response.status_code < 300, (operation["operationId"], media_type, response.text)


async def run(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    query: dict[str, Any],
    headers: dict[str, str],
    media_type: str | None,
    example: Any,
) -> httpx2.Response:
    if media_type is None:
        return await client.request(method, url, params=query, headers=headers)
    content = example if isinstance(example, str) else json.dumps(example)
    return await client.request(
        method, url, params=query, headers=headers | {"Content-Type": media_type}, content=content.encode()
    )
