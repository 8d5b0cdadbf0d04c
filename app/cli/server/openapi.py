"""`millrace openapi`: the OpenAPI document, without a running server."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.cli.server.settings_reader import read_settings


def openapi() -> None:
    """Print the OpenAPI document."""
    import asyncio

    with TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(_document(Path(folder))), ensure_ascii=False, indent=2))


async def _document(folder: Path) -> Any:  # noqa: ANN401 - JSON
    """Return the OpenAPI document of an application in this process, on an empty database."""
    import httpx2

    from app.main import create_app

    settings = read_settings(
        {"host": "127.0.0.1", "database_url": f"sqlite:///{folder / 'millrace.db'}", "ballast_bytes": 0}
    )
    application = create_app(settings)
    try:
        transport = httpx2.ASGITransport(application.asgi)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get("/openapi.json")).raise_for_status().json()
    finally:
        application.services.storage.close()
