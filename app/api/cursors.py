"""Cursors of lists: the name after which the next page begins, as one opaque word."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

from app.errors import InvalidCursor


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
