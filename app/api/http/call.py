"""One HTTP request and its answer on plain ASGI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from app.api.http import problems
from app.api.http.authorization import (
    Access,
    WaitingRequest,
    audit_record,
    authorize,
    authorize_at_once,
    is_recorded,
    watched,
)
from app.api.http.bodies import gzip_bodies
from app.api.http.bodies.reading import (
    MAX_BYTES_DECODED_IN_LOOP,
    ClientDisconnected,
    is_decoded_fast,
    part_of,
    read_rest,
)
from app.api.http.bodies.reply import JSON, Header, Reply, StreamBody, Write
from app.api.http.header_fields import COMMON_HEADERS, combined, encoded_fields, fields_of
from app.api.http.request_ids import request_id
from app.api.http.request_memory import RequestMemory
from app.api.http.validation_errors import repeated_parameter
from app.api.limits.throttle import Throttle
from app.broker.waiting.deadline import Deadline
from app.domain.access.principal import ANONYMOUS
from app.domain.limits.quotas import client_key
from app.domain.memory.ledger import WORK_FACTOR
from app.errors.broker_error import BrokerError
from app.errors.database import UnknownServerError
from app.errors.http import BadRequest

if TYPE_CHECKING:
    from app.api.http.operations import Description
    from app.api.services import Services
    from app.domain.metrics.node_metrics import OperationCounts

__all__ = ["COMMON_HEADERS", "JSON", "Call", "Header", "Reply", "StreamBody", "Write", "send_reply"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Operation(Protocol):
    """A function of a call that returns its reply; see `app/api/http/operations.py`."""

    name: str
    description: Description
    is_audited: bool

    async def __call__(self, call: Call) -> Reply:
        """Answer the call."""


class Call:
    """One request: its parameters, headers and body.

    Attributes:
        services: The parts of the application.
        parameters: The parameters of the path, decoded.
        waits: Whether the request may wait for records.
        principal: Who sends the request.
        audited_body: The body of an operation that the audit topic records.
        access: The rights of the principal; None if the server needs no key of the request.
    """

    __slots__ = (
        "_counts",
        "_headers",
        "_memory",
        "_receive",
        "_received_bytes",
        "_send",
        "_throttle",
        "_watched",
        "access",
        "audited_body",
        "parameters",
        "principal",
        "request_id",
        "scope",
        "services",
        "waits",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, services: Services, parameters: Mapping[str, str]
    ) -> None:
        self.scope = scope
        headers = scope["headers"]
        self._headers: dict[bytes, bytes] = dict(headers)
        if len(self._headers) < len(headers):
            self._headers = combined(headers)
        self._receive = receive
        self._send = send
        self.services = services
        self.parameters = parameters
        self.request_id = request_id(scope)
        self.principal = ANONYMOUS
        self.access: Access | None = None
        self._watched: WaitingRequest | None = None
        self.audited_body: object = None
        self._received_bytes = 0
        self._memory: RequestMemory | None = None
        self._counts: OperationCounts | None = None
        self.waits = False
        self._throttle: Throttle | None = None

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The headers by name in lower case; repeated headers are joined by commas."""
        return self._headers

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, or None. `name` is in lower case; repeated headers are joined by commas."""
        return self._headers.get(name)

    def idempotency_key(self) -> bytes | None:
        """Return the Idempotency-Key, with the principal whose key it is; None without the header.

        Raises:
            BadRequest: The key is empty.
        """
        key = self._headers.get(b"idempotency-key")
        if key is not None and not key.strip():
            raise BadRequest("the Idempotency-Key is empty; send a unique text, such as a UUID, or no such header")
        return key if key is None or self.access is None else b"%b\0%b" % (self.principal.name.encode(), key)

    def query(self) -> dict[str, str]:
        """Return the parameters of the query.

        Raises:
            BadRequest: The query is not percent-encoded UTF-8, or has more than 100 parameters.
            InvalidRequest: A parameter is repeated.
        """
        text: bytes = self.scope["query_string"]
        if not text:
            return {}
        try:
            pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
        except (UnicodeDecodeError, ValueError):
            raise BadRequest("the query is not percent-encoded UTF-8 with at most 100 parameters") from None
        parameters = dict(pairs)
        if len(parameters) < len(pairs):
            raise repeated_parameter([name for name, _ in pairs])
        return parameters

    async def decode(
        self, decode: Callable[[bytes], T], *, for_append: bool = False, max_bytes: int | None = None
    ) -> T:
        """Read the whole body, decompress it, and return what `decode` makes of it.

        A large body is decompressed and decoded in a worker thread, after it has its turn.

        Args:
            decode: Called with the decompressed body; must not use the event loop.
            for_append: Whether a large body keeps its turn until the request ends, because an append takes as much
                memory as the decoding.
            max_bytes: A limit below that of the server.

        Raises:
            BodyTooLarge: The body is larger than the limit, compressed or decompressed.
            BadRequest: The body is not valid gzip.
            UnsupportedMediaType: The Content-Encoding is not gzip.
            ServiceUnavailable: The memory budget has no room for the decompressed body.
            ClientDisconnected: The client disconnected.
        """
        limit = self.services.max_body_bytes if max_bytes is None else min(max_bytes, self.services.max_body_bytes)
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise gzip_bodies.too_large(limit)
        message = await self._receive()
        body: bytes | bytearray = part_of(message)
        if message.get("more_body") or len(body) > limit:
            del message  # not kept during the wait
            body = await read_rest(body, self._receive, limit)
            if self.access is not None:
                await self.access.confirm()
        self._received_bytes = len(body)
        encoding = self.header(b"content-encoding")
        if encoding is None or encoding.strip().lower() == b"identity":
            if is_decoded_fast(body):
                return decode(bytes(body))
            size, inflated = len(body), None
        else:
            inflated = size = gzip_bodies.inflated_size(body, encoding, limit)
            if size <= MAX_BYTES_DECODED_IN_LOOP and is_decoded_fast(content := gzip_bodies.inflate(body, size, limit)):
                return decode(content)
            self.memory.hold(size)
        await self.memory.take_turn(size * WORK_FACTOR)
        if await self.is_disconnected():
            raise ClientDisconnected
        try:
            return await self.services.memory.run(_decode_large, decode, body, inflated, limit)
        finally:
            if not for_append:
                self.memory.end_turn()

    @property
    def memory(self) -> RequestMemory:
        """What this request takes besides its body."""
        if self._memory is None:
            self._memory = RequestMemory(self.services.memory, self.limited_as)
        return self._memory

    @property
    def limited_as(self) -> str:
        """Whose limits count for the request: the name of its principal, or its address if it has no key."""
        if self.access is not None:
            return self.principal.name
        client = self.scope.get("client")
        return client_key(client[0]) if client else ""

    async def check_page(self) -> None:
        """Refuse to read a large page for a client that has left, or that has not read its other answers.

        Raises:
            ClientDisconnected: The client disconnected.
            ServiceUnavailable: The memory budget has no room for a further large answer.
        """
        if await self.is_disconnected():
            raise ClientDisconnected
        self.memory.check_room()

    def waiting(self, max_wait_ms: int | None) -> Deadline:
        """Return a deadline that also passes when the client disconnects. Enter it with `with`.

        Args:
            max_wait_ms: Longest wait; None for no end.

        Raises:
            ThrottlingQuotaExceeded: Too many requests of the principal wait.
            ServiceUnavailable: The memory budget has no room for a further one.
        """
        self.waits = self.waits or max_wait_ms != 0
        disconnect = asyncio.create_task(self._disconnect())
        self._watched = self._watched or watched(self)
        if self._watched is not None:
            self._watched.watch(disconnect)
        if max_wait_ms != 0:
            self.services.limits.enter_wait(self.limited_as, disconnect)
        return Deadline(max_wait_ms, disconnect)

    async def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, after the event loop has processed closed connections."""
        with Deadline(None, asyncio.create_task(self._disconnect())) as deadline:
            return await deadline.check_disconnected()

    async def _disconnect(self) -> None:
        """Return when the client disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def run(self, operation: Operation) -> None:
        """Run an operation, send its reply or its problem document, and count the answer."""
        began = self._begin_count(operation.name)
        try:
            permission = operation.description.permission
            if self.services.access.enabled and not authorize_at_once(self, operation.name, permission):
                await authorize(self, operation.name, permission)
            if self.access is not None or self.services.limits.quotas is not None:
                self._begin_limits(operation)
            if operation.is_audited and is_recorded(self, permission):
                with self.services.audit.recording(partial(audit_record, self, operation.name)):
                    reply = await operation(self)
            else:
                reply = await operation(self)
        except (ClientDisconnected, asyncio.CancelledError):
            if self._refusal is None:
                return
            reply = Reply.problem(self._refusal, self.request_id)
        except Exception as error:  # noqa: BLE001 - the border to HTTP
            reply = Reply.problem(self._client_error(error), self.request_id)
        finally:
            if self._memory is not None:
                self._memory.release()
        if self._refusal is not None and self.scope["method"] == "GET":
            reply = Reply.problem(self._refusal, self.request_id)
        self._count(reply, began)
        if reply.stream is None:
            await send_reply(self.scope, self._send, reply)
        else:
            await self._send_stream(reply, reply.stream, began)

    def _begin_count(self, operation: str) -> float:
        """Return the time at which the request begins."""
        if (operations := self.services.metrics.operations) is not None:
            self._counts = operations[operation]
        return perf_counter()

    def _begin_limits(self, operation: Operation) -> None:
        """Count the memory of the request for its principal, and the request in its quota.

        Raises:
            ThrottlingQuotaExceeded: The quota is used up.
        """
        if self.access is not None:
            self.scope["millrace.principal"] = self.principal.name
            if (holding := self.scope.get("millrace.holding")) is not None:
                holding.assign(self.principal.name)
        if (quotas := self.services.limits.quotas) is not None and (kind := operation.description.quota):
            self._throttle = Throttle(quotas, kind, self.limited_as)
            self._throttle.admit()

    def _count(self, reply: Reply, began: float) -> None:
        """Count the answer, and its bytes in the quota; a stream is counted while it is sent."""
        if self._throttle is not None:
            reply.headers += self._throttle.settle(self._received_bytes, len(reply.body))
        counts = self._counts
        if counts is not None and reply.stream is None:
            counts.add(
                reply.status,
                perf_counter() - began,
                self._received_bytes,
                len(reply.body),
                counts.long_polls if self.waits else counts.durations,
            )

    @property
    def _refusal(self) -> BrokerError | None:
        """Why the request was ended while it waited: its key was revoked, or it lost a right."""
        return None if self._watched is None else self._watched.refusal

    async def _send_stream(self, reply: Reply, stream: StreamBody, began: float) -> None:
        """Send a stream; for HEAD only the headers."""
        fields = fields_of(request_id(self.scope).encode(), reply)
        if self._counts is not None:
            self._counts.begin_stream(reply.status, self._received_bytes)
        await self._send({"type": "http.response.start", "status": reply.status, "headers": fields})
        final_part = b""
        if self._throttle is not None:
            self.scope.pop("millrace.chunk", None)  # each chunk is counted in the quota
        try:
            if not self.scope.get("millrace.head"):
                await stream.write_to(self._write)
            if self._refusal is not None:
                final_part = stream.final_part(self._refusal)
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - the border to HTTP
            final_part = stream.final_part(self._client_error(error))
        finally:
            if self._counts is not None:
                self._counts.streams.observe(perf_counter() - began)
        await self._send({"type": "http.response.body", "body": final_part})

    def count_sent(self, size_bytes: int) -> None:
        """Count bytes of a stream."""
        if self._counts is not None:
            self._counts.sent_bytes += size_bytes

    async def _write(self, data: bytes) -> None:
        self.count_sent(len(data))
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if self._throttle is not None:
            await self._throttle.pace(len(data), lambda: self.services.signals.closed)

    def _client_error(self, error: Exception) -> BrokerError:
        """Return the error for the client. Log an internal exception; its text is not sent to the client."""
        if not isinstance(error, BrokerError):
            _log.error("request %s failed", self.request_id, exc_info=error, extra=self._log_fields())
            return UnknownServerError("the server failed; its log has the cause under the request_id")
        if isinstance(error, UnknownServerError):
            detail = f"{error.detail}{problems.cause_of(error)}"
            _log.error("request %s failed: %s", self.request_id, detail, extra=self._log_fields())
        return error

    def _log_fields(self) -> dict[str, object]:
        return {"fields": {"request_id": self.request_id, "status": 500}}


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    """Send a whole answer with the headers of every answer, in one write if the server supports it."""
    answer = scope.get("millrace.answer")
    if answer is not None and answer(reply.status, encoded_fields(reply, request_id(scope).encode()), reply.body):
        return
    fields = fields_of(request_id(scope).encode(), reply)
    await send({"type": "http.response.start", "status": reply.status, "headers": fields})
    await send({"type": "http.response.body", "body": reply.body})


def _decode_large(decode: Callable[[bytes], T], body: bytes | bytearray, inflated: int | None, limit: int) -> T:
    return decode(bytes(body) if inflated is None else gzip_bodies.inflate(body, inflated, limit))
