"""Ids of requests, which answers and log lines share."""

from __future__ import annotations

import re
from itertools import count
from uuid import uuid4

from starlette.types import Scope

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_request_numbers = count(1)
_process_id = uuid4().hex[:20]


def request_id(scope: Scope) -> str:
    """Return the id of a request: the client's X-Request-ID if it is printable ASCII, else a new one."""
    known: str | None = scope.get("millrace.request_id")
    if known is None:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                known = value.decode()
                break
        else:
            known = f"{_process_id}{next(_request_numbers):012x}"
        scope["millrace.request_id"] = known
    return known
