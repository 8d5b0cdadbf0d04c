"""Run the examples of the OpenAPI document in order on an empty server, and print the answers, for its own examples.

`make examples` stores them in `app/api/documents/answer_examples.json`. Times and other values of the run are replaced,
so that the file changes only with the API.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from app.api.documents.openapi import document
from app.main import create_app
from app.settings import Settings
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fastapi import FastAPI

NOW_MS = 1_795_867_200_000
_ANY_TIME_MS = 1_600_000_000_000
_STEADY = {"version": "0.1.0", "host": "node-1", "lag_ms": 0, "oldest_age_ms": 0}


def shown_operations(described: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield path, method and description of each operation in the order of Swagger UI."""
    found = [
        (path, method, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    yield from sorted(found, key=lambda each: each[2]["x-order"])


async def run_examples(api: FastAPI, client: httpx2.AsyncClient) -> AsyncIterator[tuple[Any, str | None, Any]]:
    """Run every example in order. Yield the operation, the media type of its body, and its answer."""
    for path, method, operation in shown_operations(document(api)):
        parameters = operation.get("parameters", [])
        filled = {(p["in"], p["name"]): p["example"] for p in parameters if "example" in p}
        url = path.format(**{name: value for (location, name), value in filled.items() if location == "path"})
        query = {name: value for (location, name), value in filled.items() if location == "query"}
        headers = {name: str(value) for (location, name), value in filled.items() if location == "header"}
        bodies = operation.get("requestBody", {}).get("content", {}) or {None: {}}
        for media_type, media in bodies.items():
            example = media.get("example", "")
            content = None
            if media_type is not None:
                content = (example if isinstance(example, str) else json.dumps(example)).encode()
                headers = headers | {"Content-Type": media_type}
            answer = await client.request(method, url, params=query, headers=headers, content=content)
            if operation["operationId"] == "create_key":  # from now on each request needs a key: what Authorize does
                client.headers["Authorization"] = f"Bearer {answer.json()['key']}"
            yield operation, media_type, answer
        if operation["operationId"] == "settle_delivery":
            await await_dead_letter(client)


async def await_dead_letter(client: httpx2.AsyncClient) -> None:
    """Wait until the delivery that an example rejected is a dead letter, which the next examples redrive."""
    plan = await until(lambda: client.post("/v1/queues/jobs/redrive"), lambda found: found.json()["records"] > 0)
    assert plan.json()["records"] == 1


def steady(value: Any, name: str = "") -> Any:
    """Return an answer with the values of the run replaced."""
    if isinstance(value, dict):
        return {key: steady(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [steady(each, name) for each in value]
    if name in _STEADY and value is not None:
        return _STEADY[name]
    if isinstance(value, int) and value > _ANY_TIME_MS:
        return NOW_MS
    return re.sub(r"^[0-9a-f]{32,}$", "0" * 32, value) if isinstance(value, str) else value


async def collect() -> dict[str, dict[str, Any]]:
    """Return the JSON answers by operation and status; the first of each."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'millrace.db'}"
        application = create_app(Settings.model_validate({"database_url": url, "ballast_bytes": 0}))
        transport = httpx2.ASGITransport(application.asgi)
        async with (
            application.api.router.lifespan_context(application.api),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            async for operation, _, answer in run_examples(application.api, client):
                if answer.headers.get("content-type", "").startswith("application/json"):
                    by_status = found.setdefault(operation["operationId"], {})
                    by_status.setdefault(str(answer.status_code), steady(answer.json()))
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(collect()), indent=2, ensure_ascii=False))
