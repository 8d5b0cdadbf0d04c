"""Cursors of lists: an opaque encoding of the last name on a page."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import Meta

from app.errors.log import InvalidCursor


class Named(Protocol):
    """An item of a list that is ordered by name."""

    @property
    def name(self) -> str:
        """The name that orders the list."""


N = TypeVar("N", bound=Named)
_ID_DIGITS = 18
_LAST_ID = 10**18
"""Above all ids."""


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """One page of a list."""

    limit: Annotated[int, Meta(ge=1, le=1_000, description="Number of items on a page.")] = 100
    cursor: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="next_cursor of the previous page.", examples=["b3JkZXJz"]),
    ] = None


def cursor_after(name: str) -> str:
    """Return the cursor of the page that starts after a name."""
    return urlsafe_b64encode(name.encode()).decode()


def name_after(cursor: str | None) -> str:
    """Return the name after which a page starts; "" for the first page.

    Raises:
        InvalidCursor: `cursor_after` did not make the cursor.
    """
    if cursor is None:
        return ""
    try:
        name = urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        name = ""
    if not name or not name.isprintable():
        raise InvalidCursor("the cursor does not belong to this list; send next_cursor unchanged")
    return name


def id_before(cursor: str | None) -> int:
    """Return the id before which a page starts, of a list with the last item first.

    Raises:
        InvalidCursor: `cursor_after` did not make the cursor.
    """
    name = name_after(cursor)
    if not name:
        return _LAST_ID
    if not name.isdecimal() or len(name) > _ID_DIGITS:
        raise InvalidCursor("the cursor does not belong to this list; send next_cursor unchanged")
    return int(name)


def page_of(found: Sequence[N], limit: int) -> tuple[Sequence[N], str | None]:
    """Return one page of a list, and the cursor of the page after it or None.

    Args:
        found: The items from the start of the page, in order of name: at least `limit` + 1 if the list has more.
        limit: Items per page.
    """
    page = found[:limit]
    return page, cursor_after(page[-1].name) if len(found) > limit else None
