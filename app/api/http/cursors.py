"""Cursors of lists: the name after which the next page begins, as one opaque word."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import Meta

from app.errors.log import InvalidCursor


class Named(Protocol):
    """What lists are ordered by."""

    @property
    def name(self) -> str:
        """Its name."""


N = TypeVar("N", bound=Named)


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """A page of a list."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    cursor: Annotated[Annotated[str, Meta(max_length=512)] | None, Meta(description="next_cursor of a page.")] = None


def cursor_after(name: str) -> str:
    """Return the cursor of the page after a name."""
    return urlsafe_b64encode(name.encode()).decode()


def name_after(cursor: str | None) -> str:
    """Return the name that a page begins after; "" for the first.

    Raises:
        InvalidCursor: It is none of a list.
    """
    if cursor is None:
        return ""
    try:
        name = urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        name = ""
    if not name or not name.isprintable():
        raise InvalidCursor("the cursor is not one of this list; use next_cursor as it was given")
    return name


def page_of(found: Sequence[N], limit: int) -> tuple[Sequence[N], str | None]:
    """Return a page of a list in order of names, and the cursor after it.

    Args:
        found: What was found from the page's start on: one more than `limit`, if there is more.
        limit: Length of the page.
    """
    page = found[:limit]
    return page, cursor_after(page[-1].name) if len(found) > limit else None
