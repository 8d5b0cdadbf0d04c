"""Say which path, or which method of a path, is probably meant."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

_PREFIXES = re.compile(r"/(?:(?:api|rest|kafka|v[0-9]{1,2}|clusters/[^/]{1,100})(?=/|$)/?)*", re.IGNORECASE)
_LONGEST_PATH = 2_000
_ALIASES = {
    "messages": "records",
    "message": "records",
    "events": "records",
    "produce": "records",
    "publish": "records",
    "fetch": "records",
    "consume": "records",
    "stream": "records",
    "consumers": "groups",
    "consumer": "groups",
    "consumer-groups": "groups",
    "instances": "members",
    "ack": "acknowledge",
    "receive": "acquire",
    "claim": "acquire",
    "health": "healthz",
    "ready": "readyz",
    "swagger": "docs",
}
"""Words of other products for parts of a path."""
_SPECIAL = {
    re.compile(r"/v1/queues/[^/]+/(pause|resume)$"): (
        'PATCH /v1/queues/{queue} with {"paused":true} pauses, false resumes'
    ),
    re.compile(r"(/v[0-9])?/consumers/[^/]+/instances/[^/]+/(records|subscription|positions.*)$"): (
        'POST /v1/groups/{group}/members/{member_id}/poll with {"topics":["…"]} joins, and reads records'
    ),
    re.compile(r"(/v[0-9])?/consumers/[^/]+/?$"): (
        'POST /v1/groups/{group}/members/{member_id}/poll with {"topics":["…"]} joins, and reads records'
    ),
}
_WRITES = {"PUT", "POST", "PATCH"}
_OTHER_PATHS = ("/docs", "/openapi.json", "/problems")
_METHODS = {
    ("/v1/topics", "POST"): "PUT /v1/topics/{topic} creates a topic",
    ("/v1/queues", "POST"): "PUT /v1/queues/{queue} creates a queue",
    ("/v1/topics", "PUT"): "PUT /v1/topics/{topic} creates a topic",
    ("/v1/queues", "PUT"): "PUT /v1/queues/{queue} creates a queue",
    ("/v1/topics/{topic}", "POST"): "POST /v1/topics/{topic}/records produces, PUT creates the topic",
    ("/v1/topics/{topic}/records", "DELETE"): (
        "DELETE /v1/topics/{topic}/partitions/{partition}/records?before_offset=N deletes records of a partition"
    ),
    ("/v1/groups", "POST"): "POST /v1/groups/{group}/members/{member_id}/poll joins a group, which creates it",
    ("/v1/groups", "PUT"): "POST /v1/groups/{group}/members/{member_id}/poll joins a group, which creates it",
    ("/v1/groups/{group}", "PUT"): "POST /v1/groups/{group}/members/{member_id}/poll joins a group, which creates it",
    ("/v1/groups/{group}", "POST"): "POST /v1/groups/{group}/members/{member_id}/poll joins a group, which creates it",
    ("/v1/groups/{group}/members", "GET"): "GET /v1/groups/{group} lists the members, POST to this path joins",
    ("/v1/groups/{group}/members/{member_id}", "POST"): (
        "POST /v1/groups/{group}/members/{member_id}/poll joins, and reads records"
    ),
}
"""What is meant by a path with a method that it does not have."""


class MethodSummary(NamedTuple):
    """What a method of a path does, and an example of its body; None without a body."""

    summary: str
    body: object


def describe_path(path: str, templates: Mapping[str, Collection[str]]) -> str:
    """Return which path is probably meant instead of an unknown one.

    Args:
        path: The path of the request.
        templates: The paths of all operations, such as `/v1/topics/{topic}`, each with its methods.
    """
    if len(path) > _LONGEST_PATH:
        return "/docs shows all paths"
    for pattern, hint in _SPECIAL.items():
        if pattern.match(path):
            return hint
    known = {**templates, **dict.fromkeys(_OTHER_PATHS, ("GET",))}
    parts = path.strip("/").split("/")
    if "" in parts and parts != [""]:
        return "a name in it is empty, or it has a slash too many"
    given = path[_PREFIXES.match(path).end() :].strip("/").split("/")  # type: ignore[union-attr] # matches each path
    for candidate in (["v1", *given], given) if given != [""] else ():
        if found := [template for template in known if _is_like(candidate, template.strip("/").split("/"))]:
            return f"did you mean {' or '.join(f'{_methods(known[each])} {each}' for each in found[:2])}?"
    last = given[-1].lower()
    ends = {template.rpartition("/")[2] for template in templates}
    word = next(iter(_close(last, [end for end in ends if end and not end.startswith("{")])), None)
    found = [template for template in templates if word is not None and template.endswith(f"/{word}")]
    if word is None or not found:
        return "/docs shows all paths"
    return f"{word} {'are' if word.endswith('s') else 'is'} at {' and '.join(found[:2])}; /docs shows all paths"


def describe_method(template: str, method: str, allowed: Mapping[str, MethodSummary]) -> str:
    """Return what is probably meant by a method that a path does not have, or else what its own methods do.

    Args:
        template: The path, such as `/v1/topics/{topic}`.
        method: Of the request.
        allowed: What each method of the path does.
    """
    if hint := _METHODS.get((template, method)):
        return f"; {hint}"
    if method == "OPTIONS":
        return "; pages of another origin may use it only if MILLRACE_CORS_ORIGINS has that origin"
    writes = [each for each in sorted(allowed) if each in _WRITES]
    change = f"; use {writes[0]} instead of {method}" if method in _WRITES and len(writes) == 1 else ""
    uses = ", ".join(f"{each}: {allowed[each].summary}" for each in sorted(allowed))
    body = allowed[writes[0]].body if len(writes) == 1 else None
    if body is None:
        return f"{change}; {uses}"
    verb = "" if writes[0] == "POST" else f"-X {writes[0]} "
    return f"{change}; {uses}, such as curl {verb}--json '{json.dumps(body, separators=(',', ':'))}' URL"


def _is_like(given: list[str], template: list[str]) -> bool:
    """Return whether a path has the parts of a template, apart from spelling."""
    if len(given) != len(template):
        return False
    return all(
        expected.startswith("{") or given_part == expected or bool(_close(given_part.lower(), [expected]))
        for given_part, expected in zip(given, template, strict=True)
    )


def _close(word: str, known: Iterable[str]) -> list[str]:
    return get_close_matches(_ALIASES.get(word, word), list(known), n=1, cutoff=0.8)


def _methods(methods: Collection[str]) -> str:
    return ", ".join(sorted(methods))
