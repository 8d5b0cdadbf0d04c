"""A server that needs keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.access.principals import ADMIN_KEY, Principals

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve


@pytest.fixture
async def keyed(serve: Serve) -> httpx2.AsyncClient:
    """A client without a key of a server that needs one."""
    _, client = await serve(auth="keys", admin_key=ADMIN_KEY)
    return client


@pytest.fixture
def principals(keyed: httpx2.AsyncClient) -> Principals:
    """Makes principals."""
    return Principals(keyed)
