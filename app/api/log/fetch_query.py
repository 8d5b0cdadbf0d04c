"""Query parameters of a fetch, of a page and of a stream."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.api.http.operations import MAX_INT64


class FetchQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where to read, how much, and how long to wait."""

    offset: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(
            description="An offset, `earliest`, `latest`, `-N` (the last N), or `@` and epoch ms or RFC 3339. "
            "If not given, a page starts at `earliest`, a stream at `latest`.",
            examples=["earliest", "41", "-10", "@2026-01-31T12:00:00Z"],
        ),
    ] = None
    max_records: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="Most records of a page. Default 500, or the limit of the server if lower.", examples=[100]),
    ] = None
    max_bytes: Annotated[
        int,
        Meta(ge=1, le=33_554_432, description="Most bytes of a page; one larger record is returned all the same."),
    ] = 1_048_576
    min_bytes: Annotated[int, Meta(ge=0, le=33_554_432, description="Wait until the page has this size.")] = 1
    max_wait_ms: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_INT64)] | None,
        Meta(
            description="Longest wait of a page for min_bytes: 0 to 60,000, default 0. "
            "A stream ends this long after its start; by default it has no end.",
            examples=[1000],
        ),
    ] = None
    offset_reset: Annotated[
        Literal["earliest", "latest"] | None,
        Meta(description="Where to read if the offset is out of range, instead of 410 or 416."),
    ] = None
    follow: Annotated[
        bool, Meta(description="Stream one record a line until the client disconnects, instead of a page.")
    ] = False
    max_events: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_INT64)] | None,
        Meta(description="A stream ends after this number of records. Pages have max_records.", examples=[10]),
    ] = None


class FetchTopicQuery(FetchQuery, forbid_unknown_fields=True, kw_only=True):
    """Parameters of a read of a whole topic."""

    cursor: Annotated[
        str | None, Meta(description="next_cursor of a page; instead of offset.", examples=["kgGUAQAAAI17"])
    ] = None
