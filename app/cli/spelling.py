"""Write the messages of the HTTP API with the options and commands of the command line."""

from __future__ import annotations

import re

_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"field config: there is no field (\S+?);", r"--config: there is no configuration \1;"),
        (r"field config(?:: field |\.)(\w+):", r"--config \1:"),
        (r"the fields are", "the names are"),
        (r'send \{"config":\{"(\w+)":…\}\}', r"use --config \1=VALUE"),
        (r"field partitions:", "--partitions:"),
        (r"\bauto_offset_reset is none\b", "--auto-offset-reset is none"),
        (r"another auto_offset_reset\b", "another --auto-offset-reset"),
        (r"(?<!auto_)\boffset_reset=(\w+)", r"--offset-reset \1"),
        (r"\bkey_from\b", "--key"),
        (r"\btimestamp_from\b", "--timestamp"),
        (r"\blines=(values|records)\b", r"--format \1"),
        (r"\?--format", "--format"),
        (r"^(offset|to|start) (must be|takes)", r"--\1 \2"),
        (r"\bPUT /v1/topics/\{topic\} creates", "millrace topics create TOPIC creates"),
        (r"\bPUT /v1/queues/\{queue\} creates", "millrace queues create QUEUE TOPIC creates"),
        (r"\bPATCH /v1/(topics|queues)/\{\w+\} changes that", r"millrace \1 alter changes that"),
        (r"\bleave partitions out\b", "leave --partitions out"),
        (r"\bGET /v1/(topics|queues|groups) lists the \1\b", r"millrace \1 list shows all"),
        (r"\bPATCH /v1/webhooks/\{webhook\} changes", "millrace webhooks change WEBHOOK changes"),
        (r"\bPOST /v1/webhooks/\{webhook\}/rotate_secret\b", "millrace webhooks rotate-secret WEBHOOK"),
        (r"\bGET /v1/webhooks/\{webhook\} shows\b", "millrace webhooks describe WEBHOOK shows"),
        (r"\bPATCH /v1/sources/\{source\} changes\b", "millrace sources change SOURCE changes"),
        (r"\bPOST /v1/sources/\{source\}/rotate_secret\b", "millrace sources rotate SOURCE"),
        (r"\bmax_in_flight\b", "--max-in-flight"),
        (r"\bmax_batch_records\b", "--max-batch-records"),
        (r"\btimeout_ms\b", "--timeout-ms"),
        (r"\brate_limit_per_s\b", "--rate-limit-per-s"),
        (r"\bretry_delays_ms\b", "--retry-delays-ms"),
        (r"\bon_exhausted\b", "--on-exhausted"),
        (r"\btopic_pattern\b", "--topic-pattern"),
        (r"\bPOST /v1/groups/\{group\}/offsets/reset\b", "millrace groups reset GROUP TOPIC"),
        (r"\bGET /v1/topics/\{topic\}/partitions lists\b", "millrace topics describe TOPIC lists"),
    )
]


def in_spelling_of_options(detail: str) -> str:
    """Return the detail of a problem with options and commands instead of fields, parameters and paths."""
    for pattern, replacement in _SPELLINGS:
        detail = pattern.sub(replacement, detail)
    return detail
