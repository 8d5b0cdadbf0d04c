"""Pages of lists that show only what the client may describe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from app.api.http.authorization import may_describe
from app.api.http.call import Call
from app.api.http.cursors import Named, name_after, page_of
from app.domain.access.acl import ResourceType

_READ_AT_ONCE = 200
"""Items that are read at once where some may be hidden."""

N = TypeVar("N", bound=Named)


class PageQuery(Protocol):
    """One page of a list."""

    limit: int
    cursor: str | None


async def visible_page(
    call: Call,
    resource_type: ResourceType,
    read: Callable[[str, int], Awaitable[Sequence[N]]],
    query: PageQuery,
) -> tuple[Sequence[N], str | None]:
    """Return one page of a list, and the cursor of the page after it or None.

    Args:
        call: The request.
        resource_type: What the list contains.
        read: Returns up to a number of items in order of name, from the first above a name.
        query: The page.

    Raises:
        InvalidCursor
    """
    after = name_after(query.cursor)
    found: list[N] = []
    at_once = query.limit + 1 if call.access is None else max(query.limit + 1, _READ_AT_ONCE)
    while len(found) <= query.limit:
        items = await read(after, at_once)
        found += [item for item in items if may_describe(call, resource_type, item.name)]
        if len(items) < at_once:
            break
        after = items[-1].name
    return page_of(found, query.limit)
