"""Requests generated from the OpenAPI document: every answer conforms to the document, and none is a 5xx.

The short form runs with all tests; `make fuzz` runs the long form, with new requests each time. No operation is
excluded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from starlette.testclient import TestClient

from app.api.documents.openapi import document
from app.main import create_app
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = os.environ.get("MILLRACE_FUZZ") == "long"
EXAMPLES = 2_000 if LONG else 25
EXPORTED = Path(__file__).resolve().parents[2] / "openapi" / "openapi.json"
ORDERS = "/v1/topics/orders"
STREAM_MS = 20
"""The `max_wait_ms` of each stream, which is endless without it."""

load_all_checks()
CONFORMANCE = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an application with a short `max_wait_ms`."""
    path = tmp_path_factory.mktemp("fuzz") / "millrace.db"
    values = {"database_url": f"sqlite:///{path}", "max_wait_ms": 50, "ballast_bytes": 0, "auth": "none"}
    application = create_app(Settings.model_validate(values))
    with TestClient(application.asgi, base_url="http://localhost", follow_redirects=False) as each:
        each.app_state["document"] = document(application.api)
        yield each


@pytest.fixture(scope="module")
def schema(client: TestClient) -> Any:
    return schemathesis.openapi.from_dict(client.app_state["document"])


def cases() -> Iterator[Any]:
    """Yield the name of each operation with each kind of request that it takes."""
    for methods in json.loads(EXPORTED.read_text())["paths"].values():
        for operation in methods.values():
            name = operation["operationId"]
            yield pytest.param(name, GenerationMode.POSITIVE, id=f"valid {name}")
            if "parameters" in operation or "requestBody" in operation:
                yield pytest.param(name, GenerationMode.NEGATIVE, id=f"invalid {name}")


def send(client: TestClient, case: Any) -> Any:
    """Send the case unchanged, byte for byte."""
    prepared: Any = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()
    body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    return client.request(prepared.method, prepared.url, headers=dict(prepared.headers), content=body or b"")


# Schemathesis generates invalid data by `random`, which hypothesis seeds.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize(("name", "mode"), list(cases()))
def test_fuzz(client: TestClient, schema: Any, name: str, mode: GenerationMode) -> None:
    operation = schema.find_operation_by_id(name)

    @settings(
        max_examples=EXAMPLES,
        derandomize=not LONG,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(known=st.booleans(), case=operation.as_strategy(generation_mode=mode))
    def every_answer_conforms(known: bool, case: Any) -> None:
        client.put(ORDERS)
        if known:
            case.path_parameters |= {"topic": "orders"} if "topic" in case.path_parameters else {}
            case.path_parameters |= {"partition": 0} if "partition" in case.path_parameters else {}
        if case.query and str(case.query.get("follow")).lower() == "true":
            case.query["max_wait_ms"] = STREAM_MS
        response = send(client, case)
        case.validate_response(response, checks=CONFORMANCE)

    every_answer_conforms()
