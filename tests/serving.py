"""An application in this process, with its lifespan and a client that calls it without a socket."""

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
    """A function that starts an application with these settings."""

    async def __call__(self, **settings: Any) -> tuple[Application, httpx2.AsyncClient]: ...


@asynccontextmanager
async def running(settings: Mapping[str, Any]) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Run an application; give it with a client of it."""
    application = create_app(Settings.model_validate({"ballast_bytes": 0} | dict(settings)))
    async with lifespan(application), client_of(application.asgi) as client:
        yield application, client


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Run the server's side of the ASGI lifespan protocol."""
    received: asyncio.Queue[Any] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.ensure_future(application.asgi(scope, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert await sent.get() == {"type": "lifespan.startup.complete"}
    try:
        yield
    finally:
        await received.put({"type": "lifespan.shutdown"})
        await task


def client_of(asgi: Any, host: str = "localhost:8400") -> httpx2.AsyncClient:
    """Return a client of an ASGI application that sends `Host: host`."""
    transport = httpx2.ASGITransport(app=asgi, raise_app_exceptions=True)
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=DEADLINE_S)
