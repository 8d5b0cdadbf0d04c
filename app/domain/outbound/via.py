"""The webhooks that a record has passed, so that a webhook that posts to a source of its own topic ends. Pure.

Each attempt has the marks of these webhooks in the header `millrace-via`, and the source stores them in its record.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable
from hashlib import sha256

HEADER = "millrace-via"
MAX_MARKS = 32
_MARK = re.compile(r"[a-z2-7]{16}")


def mark_of(name: str, webhook_id: int, created_at_ms: int) -> str:
    """Return the mark of a webhook: webhooks of the same name on other servers have another one."""
    digest = sha256(f"{name}/{webhook_id}/{created_at_ms}".encode()).digest()
    return b32encode(digest[:10]).decode().lower()


def parse(texts: Iterable[str]) -> list[str]:
    """Return the marks in values of the header, each once; anything else is left out."""
    marks = (mark.strip() for text in texts for mark in text.split(","))
    return list(dict.fromkeys(mark for mark in marks if _MARK.fullmatch(mark)))


def join(marks: Iterable[str]) -> str:
    """Return the value of the header."""
    return ",".join(dict.fromkeys(marks))
