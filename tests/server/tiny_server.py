"""A server program for tests: a small application on `app.server.uvicorn.serve`.

Arguments: a host, a port, and what differs from the defaults, as JSON: limits, `budget_bytes`, `connections`,
`grace_ms`, and the file of a `certificate` for HTTPS. The program prints the port when it is ready, and `cleaned up`
when its lifespan ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from app.domain.memory.ledger import MemoryLedger
from app.server.tls.certificate import Certificate
from app.server.uvicorn import Connections, ProtocolLimits, ServerMemory, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

LARGE_BYTES = 8 * 1024 * 1024

stopping = asyncio.Event()
events: list[str] = []


def print_line(line: str) -> None:
    print(line, flush=True)


async def answer(send: Send, status: int, body: bytes, *, more: bool = False) -> None:
    headers = [] if more else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def read_body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            events.append("disconnect")
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    if body is not None:
        names = [name.decode() for name, _ in scope["headers"]]
        facts = {
            "path": scope["path"],
            "version": scope["http_version"],
            "names": names,
            "body": body.decode(),
        }
        await answer(send, 200, json.dumps(facts).encode())


async def wait_for_stop(_: dict[str, Any], __: Receive, send: Send) -> None:
    print_line("waiting")
    await stopping.wait()
    await answer(send, 200, b"stopping")


async def stream(_: dict[str, Any], receive: Receive, send: Send) -> None:
    await answer(send, 200, b"begun", more=True)
    await read_body(receive)


async def parts(_: dict[str, Any], __: Receive, send: Send) -> None:
    await answer(send, 200, b"one ", more=True)
    await send({"type": "http.response.body", "body": b"two ", "more_body": True})
    await send({"type": "http.response.body", "body": b"three"})


async def stuck(_: dict[str, Any], __: Receive, ___: Send) -> None:
    print_line("stuck")
    await asyncio.Event().wait()


async def too_large(_: dict[str, Any], __: Receive, send: Send) -> None:
    await answer(send, 413, b"too large")


async def large(_: dict[str, Any], __: Receive, send: Send) -> None:
    await answer(send, 200, bytes(LARGE_BYTES))


async def list_held(scope: dict[str, Any], _: Receive, send: Send) -> None:
    await answer(send, 200, b"%d" % budget.held_by(client_of(scope)))


def client_of(scope: dict[str, Any]) -> str:
    given: bytes | None = dict(scope["headers"]).get(b"x-forwarded-for")
    return str(scope["client"][0]) if given is None else given.decode()


def authenticate(scope: dict[str, Any]) -> None:
    """Take the principal that a header names, as the application does after it has checked a key."""
    if (principal := dict(scope["headers"]).get(b"x-principal")) is not None:
        scope["millrace.principal"] = principal.decode()
        if (holding := scope.get("millrace.holding")) is not None:
            holding.assign(principal.decode())


async def list_refused(_: dict[str, Any], __: Receive, send: Send) -> None:
    await answer(send, 200, json.dumps([connections.open, connections.refused]).encode())


async def list_events(_: dict[str, Any], __: Receive, send: Send) -> None:
    await answer(send, 200, json.dumps(events).encode())


async def wait_for_disconnect(_: dict[str, Any], receive: Receive, __: Send) -> None:
    print_line("reading")
    while (await receive())["type"] != "http.disconnect":
        pass
    print_line("disconnected")


ROUTES = {
    "/waiting": wait_for_stop,
    "/stream": stream,
    "/parts": parts,
    "/stuck": stuck,
    "/too-large": too_large,
    "/events": list_events,
    "/large": large,
    "/held": list_held,
    "/refused": list_refused,
    "/disconnect": wait_for_disconnect,
}


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print_line("cleaned up")
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        authenticate(scope)
        await ROUTES.get(scope["path"], echo)(scope, receive, send)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[3])
    grace_ms = arguments.pop("grace_ms", 500)
    certificate_file = arguments.pop("certificate", "")
    budget = MemoryLedger(arguments.pop("budget_bytes", 512 * 1024 * 1024))
    most, most_of_address = arguments.pop("connections", (0, 0))
    connections = Connections(most, most_of_address, lambda address: address == "127.0.0.9")
    serve(
        app,  # type: ignore[arg-type] # simpler types than ASGI's
        host=sys.argv[1],
        port=int(sys.argv[2]),
        limits=ProtocolLimits(**arguments),
        memory=ServerMemory(budget, client_of, connections),
        on_stop=stopping.set,
        on_ready=lambda port: print_line(str(port)),
        grace_ms=grace_ms,
        certificate=Certificate(certificate_file, "") if certificate_file else None,
    )
