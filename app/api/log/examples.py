"""Bodies and headers of produce for the OpenAPI document; each example works without changes."""

from __future__ import annotations

from typing import Any

from app.domain.log.producer import MAX_EPOCH

_LINES = '{"key":"alice","value":{"item":"book"}}\n{"key":"bob","value":{"item":"lamp"}}\n'
_EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "https://shop.example.com/orders",
    "type": "com.example.order.placed",
    "partitionkey": "alice",
    "data": {"item": "book"},
}

PRODUCE_BODIES: dict[str, dict[str, Any]] = {
    "application/json": {
        "schema": {"$ref": "#/components/schemas/ProduceBody"},
        "example": {
            "records": [
                {
                    "key": "alice",
                    "value": {"item": "book", "price": 12.5},
                    "headers": [{"name": "source", "value": "web"}],
                }
            ]
        },
    },
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "One record object per line."},
        "example": _LINES,
    },
    "application/jsonl": {
        "schema": {"type": "string", "description": "One record object per line."},
        "example": _LINES,
    },
    "text/plain": {
        "schema": {"type": "string", "description": "The value of one record, stored as text."},
        "example": "hello",
    },
    "application/octet-stream": {
        "schema": {"type": "string", "format": "binary", "description": "The value of one record, byte for byte."}
    },
    "application/cloudevents+json": {
        "schema": {"type": "object", "description": "One CloudEvent; its attributes become headers `ce_<name>`."},
        "example": _EVENT,
    },
    "application/cloudevents-batch+json": {
        "schema": {"type": "array", "items": {"type": "object"}, "description": "CloudEvents, appended together."},
        "example": [_EVENT],
    },
}

PRODUCE_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "schema": {"type": "string", "minLength": 1, "examples": ["order-4711"]},
        "description": "A repeated request with the same key within 24 hours gets the answer of the first.",
    },
    "Producer-Id": {
        "schema": {"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,249}$", "examples": ["checkout-1"]},
        "description": "Id of an idempotent producer; send it with Producer-Epoch and Producer-Sequence.",
    },
    "Producer-Epoch": {
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_EPOCH, "examples": [0]},
        "description": "The epoch from POST /v1/producers/{producer_id}.",
    },
    "Producer-Sequence": {
        "schema": {"type": "integer", "minimum": 0, "examples": [0]},
        "description": "Number of the request among those of the producer to the topic, from 0.",
    },
    "Prefer": {
        "schema": {"type": "string", "enum": ["return=minimal", "return=representation"]},
        "description": "With `return=minimal`, the answer has one entry per partition.",
    },
}

PRODUCE_ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "Preference-Applied": {
        "schema": {"type": "string"},
        "description": "`return=minimal`, if the request has that preference.",
    },
}
