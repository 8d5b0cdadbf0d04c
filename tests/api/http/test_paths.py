"""A path parameter is one segment of the path: an encoded slash does not divide it into two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.api.documents.openapi import operations

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

MEMBERS = "/v1/groups/g/members"


async def test_an_encoded_slash_does_not_reach_another_resource(sqlite_client: httpx2.AsyncClient) -> None:
    joined = await sqlite_client.post(f"{MEMBERS}/bob/poll", json={"topics": ["orders"], "max_wait_ms": 0})

    refused = await sqlite_client.delete("/v1/groups/g%2Fmembers%2Fbob")

    assert joined.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST")
    assert "%2F" in refused.json()["detail"]
    assert (await sqlite_client.get(f"{MEMBERS}/bob")).status_code == 200


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
async def test_every_operation_refuses_an_encoded_slash_in_each_parameter(serve: Serve, slash: str) -> None:
    application, client = await serve()
    paths = [(method, route.path) for route in operations(application.api) for method in route.methods or ()]

    for method, path in paths:
        for name in (part for part in path.split("/") if part.startswith("{")):
            refused = await client.request(method, path.replace(name, f"a{slash}b").replace("{", "").replace("}", ""))
            assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST"), (method, path)


@pytest.mark.parametrize("path", ["/v1%2Ftopics", "/docs%2finit.js", "/problems%2Fbad-request", "/nothing%2Fat/all"])
async def test_an_encoded_slash_between_fixed_parts_is_refused(sqlite_client: httpx2.AsyncClient, path: str) -> None:
    assert (await sqlite_client.get(path)).status_code == 400


async def test_an_encoded_slash_in_the_query_is_data(sqlite_client: httpx2.AsyncClient) -> None:
    produced = await sqlite_client.post("/v1/topics/orders/records?key=a%2Fb", content=b"x")
    page = (await sqlite_client.get("/v1/topics/orders/records")).json()

    assert produced.status_code == 201
    assert [record["key"] for record in page["records"]] == ["a/b"]


async def test_other_percent_encodings_of_a_path_are_decoded_once(sqlite_client: httpx2.AsyncClient) -> None:
    created = await sqlite_client.put("/v1/%74opics/order%73")
    encoded_twice = await sqlite_client.put("/v1/topics/a%252Fb")

    assert (created.status_code, encoded_twice.status_code) == (201, 422)
    assert [topic["name"] for topic in (await sqlite_client.get("/v1/topics")).json()["items"]] == ["orders"]
