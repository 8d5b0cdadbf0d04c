"""Every operation against every kind of principal, generated from the operations and their examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from app.api.documents.openapi import document, operations
from tests.api.access.principals import ADMIN_KEY, Principals
from tests.e2e.support.answer_examples import shown_operations
from tests.serving import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from app.domain.access.permission import Permission
    from app.main import Application
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

BODY_RIGHTS = [("all", kind, "*") for kind in ("topic", "group", "producer")]
"""What examples need for the topics, groups and producers in their bodies."""


class Request(NamedTuple):
    """The example of an operation."""

    name: str
    permission: Permission
    method: str
    path: str
    query: dict[str, Any]
    headers: dict[str, str]
    body: Any

    async def send(self, client: httpx2.AsyncClient, headers: dict[str, str]) -> httpx2.Response:
        sent = self.headers | headers
        if self.body is None:
            return await client.request(self.method, self.path, params=self.query, headers=sent)
        if isinstance(self.body, str):
            content = self.body.encode()
            return await client.request(self.method, self.path, params=self.query, headers=sent, content=content)
        return await client.request(self.method, self.path, params=self.query, headers=sent, json=self.body)

    @property
    def resource(self) -> tuple[str, str, str]:
        """The right that the operation declares."""
        kind, operation, parameter = (
            self.permission.resource_type,
            self.permission.operation,
            self.permission.parameter,
        )
        return operation, kind, self.names[parameter] if parameter else "cluster"

    @property
    def names(self) -> dict[str, str]:
        return NAMES


NAMES = {
    "topic": "orders",
    "group": "billing",
    "queue": "jobs",
    "source": "github",
    "webhook": "billing",
    "producer_id": "checkout-1",
}


def examples(application: Application) -> Iterator[Request]:
    """Yield the example of each operation in the order of Swagger UI; keys come last."""
    permissions = {
        route.operation.name: route.operation.description.permission for route in operations(application.api)
    }
    for path, method, operation in shown_operations(document(application.api)):
        given = {(p["in"], p["name"]): p["example"] for p in operation.get("parameters", []) if "example" in p}
        in_path = {name: value for (place, name), value in given.items() if place == "path"}
        query = {name: value for (place, name), value in given.items() if place == "query"}
        content = operation.get("requestBody", {}).get("content", {})
        body = next((media.get("example") for media in content.values()), None)
        headers = {"Content-Type": next(iter(content))} if isinstance(body, str) else {}
        name = operation["operationId"]
        yield Request(name, permissions[name], method, path.format(**in_path), query, headers, body)


@pytest.fixture
async def application(serve: Serve) -> Application:
    application, _ = await serve(auth="keys", admin_key=ADMIN_KEY)
    return application


@pytest.fixture
async def client(application: Application) -> Any:
    async with client_of(application.asgi) as client:
        yield client


def described(response: httpx2.Response) -> tuple[int, Any]:
    return response.status_code, {key: value for key, value in response.json().items() if key != "request_id"}


async def test_every_operation_declares_a_permission(application: Application) -> None:
    public = {request.name for request in examples(application) if request.permission.kind == "public"}

    assert public == {
        "answer_source_challenge", "answer_source_handshake", "deliver_to_source", "get_health", "get_links",
        "get_readiness",
    }  # fmt: skip


async def test_without_a_valid_key_nothing_but_public_operations_is_answered(
    application: Application, client: httpx2.AsyncClient
) -> None:
    principals = Principals(client)
    revoked = await principals.key("app", key_id="revokedkey01", admin=True)
    await client.delete("/v1/keys/revokedkey01", headers=principals.admin)
    wrong = [
        {},
        {"Authorization": f"Bearer {revoked}"},
        {"X-API-Key": revoked},
        {"Authorization": f"Bearer {ADMIN_KEY}x"},
        {"Authorization": f"Basic {ADMIN_KEY}"},
        {"Cookie": f"key={ADMIN_KEY}"},
    ]
    for request in examples(application):
        if request.permission.kind == "public":
            continue
        for headers in wrong:
            answer = await request.send(client, headers)

            assert answer.status_code == 401, (request.name, headers)
            assert answer.json()["code"] == "SASL_AUTHENTICATION_FAILED"
            assert answer.headers["www-authenticate"] == "Bearer"
    topics = (await client.get("/v1/topics", headers=principals.admin)).json()["items"]
    assert [topic["name"] for topic in topics] == ["__audit"]


async def test_a_principal_without_rights_changes_nothing_and_sees_nothing(
    application: Application, client: httpx2.AsyncClient
) -> None:
    stranger = await Principals(client).add("stranger")
    for request in examples(application):
        answer = await request.send(client, stranger)
        kind, status = request.permission.kind, answer.status_code

        if kind == "public":
            continue
        if kind == "any":
            assert status in {200, 201, 403}, request.name
            assert "items" not in answer.json() or answer.json()["items"] == []
        elif kind == "resource" and request.method == "get" and request.permission.resource_type != "cluster":
            assert status == 404, request.name
        else:
            assert status == 403, (request.name, answer.text)
            assert answer.json()["code"].endswith("_AUTHORIZATION_FAILED")
            assert answer.json()["retriable"] is False


async def test_each_example_works_with_exactly_the_right_that_its_operation_declares(
    application: Application, client: httpx2.AsyncClient
) -> None:
    principals = Principals(client)
    for request in examples(application):
        kind = request.permission.kind
        headers = principals.admin
        if kind in {"any", "resource"}:
            rights = [request.resource] if kind == "resource" else []
            headers = await principals.add(request.name, *rights, *BODY_RIGHTS)
        answer = await request.send(client, {} if kind == "public" else headers)
        if request.name in {"deliver_to_source", "answer_source_challenge", "answer_source_handshake"}:
            continue  # they have their own verification
        assert answer.status_code < 300, (request.name, answer.status_code, answer.text)


async def test_a_read_of_a_hidden_name_is_answered_as_that_of_a_missing_one(
    application: Application, client: httpx2.AsyncClient
) -> None:
    principals = Principals(client)
    reads = [
        request
        for request in examples(application)
        if request.method == "get"
        and request.permission.kind == "resource"
        and request.permission.resource_type != "cluster"
    ]
    assert len(reads) > 12
    stranger = await principals.add("stranger")
    missing = [await request.send(client, principals.admin) for request in reads]
    for request in examples(application):
        if "delete" not in request.method and request.permission.kind != "admin":
            await request.send(client, principals.admin)
    for request, answer in zip(reads, missing, strict=True):
        assert (await request.send(client, principals.admin)).status_code < 300, request.name
        assert described(await request.send(client, stranger)) == described(answer), request.name


async def test_a_deny_wins_for_every_operation(application: Application, client: httpx2.AsyncClient) -> None:
    principals = Principals(client)
    denied = await principals.add("denied", *[("all", kind, name) for _, kind, name in ALL])
    for _, kind, name in ALL:
        await principals.allow("denied", "all", kind, name, permission="deny")
    for request in examples(application):
        if request.permission.kind == "resource":
            answer = await request.send(client, denied)
            assert answer.status_code in {403, 404}, request.name


ALL = [("all", kind, "*") for kind in ("topic", "group", "queue", "webhook", "source", "producer")] + [
    ("all", "cluster", "cluster")
]


@pytest.mark.parametrize(
    "path",
    ["//v1/topics", "/v1//topics", "/v1/./topics", "/v1/topics/", "/V1/topics", "/v1/topics/x/../y", "/v1/%74opics"],
)
async def test_other_spellings_of_a_path_open_nothing(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code in {400, 401, 404}
