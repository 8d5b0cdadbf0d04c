"""The parts of a record that a filter tests. Pure."""

from __future__ import annotations

from app.domain.log.headers import decode_headers
from app.domain.log.record import KEY_BASE64, VALUE_JSON, VALUE_MASK, StoredRecord
from app.domain.webhooks.filter import Subject


def subject_of(record: StoredRecord) -> Subject:
    """Return the key as text, the headers by name, and the value if it is JSON."""
    headers: dict[str, list[str]] = {}
    if record.headers is not None:
        for header in decode_headers(record.headers):
            if header.value is not None and header.encoding == "text":
                headers.setdefault(header.name, []).append(header.value)
    key = None if record.key is None or record.encoding & KEY_BASE64 else record.key.decode()
    value = record.value if record.encoding & VALUE_MASK == VALUE_JSON else None
    return Subject(key, headers, value)
