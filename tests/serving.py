"""An application in this process: its lifespan run, and a client that speaks to it without a socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import httpx2

from app.main import Application, create_app
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

DEADLINE_S = 20


class Serve(Protocol):
    """Start an application with the settings given."""

    async def __call__(self, **settings: Any) -> tuple[Application, httpx2.AsyncClient]: ...


@asynccontextmanager
async def running(settings: Mapping[str, Any]) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Run an application's lifespan, and give it with a client."""
    application = create_app(Settings.model_validate({"ballast_bytes": 0} | dict(settings)))
    async with lifespan(application), client_of(application.asgi) as client:
        yield application, client


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Speak the server's side of ASGI's lifespan protocol."""
    said: asyncio.Queue[Any] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.ensure_future(application.asgi(scope, said.get, heard.put))
    await said.put({"type": "lifespan.startup"})
    assert await heard.get() == {"type": "lifespan.startup.complete"}
    try:
        yield
    finally:
        await said.put({"type": "lifespan.shutdown"})
        await task


def client_of(asgi: Any, host: str = "localhost:8400") -> httpx2.AsyncClient:
    """Give a client of an ASGI application, which sends `Host: host`."""
    transport = httpx2.ASGITransport(app=asgi, raise_app_exceptions=True)
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=DEADLINE_S)
