"""What the audit topic records. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

_SECRET_FIELDS = frozenset({"secret", "verify_token", "headers", "key"})
"""Fields of requests whose values are not recorded."""
_HIDDEN = "***"
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A change, or refused requests.

    Attributes:
        principal: Who sent the request.
        key_id: The id of its API key; None without one.
        address: The address of the client; empty for a command on the machine of the database.
        operation: The operation of the API, as in the OpenAPI document.
        resource: The parameters of the path.
        parameters: The fields of the body, without secrets.
        reason: The code of the error of refused requests.
        count: How many requests were refused since the record before.
    """

    type: Literal["change", "refusal"]
    at_ms: int
    principal: str
    operation: str
    key_id: str | None = None
    address: str = ""
    request_id: str | None = None
    resource: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    reason: str | None = None
    count: int = 1


def without_secrets(value: object) -> Any:  # noqa: ANN401 - JSON
    """Return the fields of a request, with `***` instead of secrets."""
    if isinstance(value, dict):
        return {
            name: _HIDDEN if name in _SECRET_FIELDS and each is not None else without_secrets(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    return _CREDENTIALS.sub("://***@", value) if isinstance(value, str) else value
