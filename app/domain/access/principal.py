"""Who sends a request."""

from __future__ import annotations

import re
from typing import NamedTuple


class Principal(NamedTuple):
    """Who sends a request.

    Attributes:
        name: The name in access control lists, such as `app` or `oidc:alice`.
        is_admin: Whether the principal is a super user: no access control list restricts it.
        key_id: The id of the API key of the request; None without an API key.
    """

    name: str
    is_admin: bool = False
    key_id: str | None = None


ANONYMOUS = Principal("ANONYMOUS", is_admin=True)
"""The sender of a request to a server that needs no key. It may do everything."""

_NAME = re.compile(r"[A-Za-z0-9._:@/+=|-]{1,249}")


def error_of(name: str) -> str | None:
    """Return what is wrong with the name of a principal, or None."""
    if not _NAME.fullmatch(name):
        return "must be 1 to 249 characters of a-z A-Z 0-9 . _ : @ / + = | -"
    if name == ANONYMOUS.name:
        return f"must not be {ANONYMOUS.name}, the principal of servers that need no key"
    return None
