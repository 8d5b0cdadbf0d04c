"""An answer: its status, headers and body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from app.api.http import problems
from app.errors.broker_error import BrokerError

JSON = b"application/json"
_encoder = msgspec.json.Encoder()

Header = tuple[bytes, bytes]
Write = Callable[[bytes], Awaitable[None]]


class StreamBody(Protocol):
    """The body of a stream, written in parts; see `app/api/log/streams.py`."""

    async def write_to(self, write: Write) -> None:
        """Write the body. Each write waits while the client's buffer is full."""

    def final_part(self, error: BrokerError) -> bytes:
        """Return the last part of a stream that ends with an error."""


class Reply:
    """An answer: either a whole body or a stream.

    Attributes:
        body: The whole body; JSON ends with a newline.
        stream: Writes the body of a stream; None for a whole body.
    """

    __slots__ = ("body", "content_type", "headers", "status", "stream")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: bytes = JSON,
        headers: list[Header] | None = None,
        stream: StreamBody | None = None,
    ) -> None:
        self.body = body
        self.stream = stream
        self.status = status
        self.content_type = content_type
        self.headers = headers or []

    @classmethod
    def of(cls, answer: object, status: int = 200, headers: list[Header] | None = None) -> Reply:
        """Return a reply with the JSON of a struct."""
        return cls(_encoder.encode(answer) + b"\n", status, JSON, headers)

    @classmethod
    def problem(cls, error: BrokerError, request_id: str) -> Reply:
        """Return a reply with the problem document of an error."""
        document = problems.document(error, request_id)
        return cls(
            _encoder.encode(document) + b"\n",
            problems.STATUS[type(error)],
            problems.MEDIA_TYPE.encode(),
            problems.headers(error),
        )
