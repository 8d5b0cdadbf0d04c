"""An unknown path, and a method that a path does not have, name the call that is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

POLL = "POST /v1/groups/{group}/members/{member_id}/poll"
PARTITION_RECORDS = "DELETE, GET, POST /v1/topics/{topic}/partitions/{partition}/records"
RECORDS = "GET, POST /v1/topics/{topic}/records"
TOPIC = "DELETE, GET, PATCH, PUT /v1/topics/{topic}"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/topic/orders", f"did you mean {TOPIC}?"),
        ("/v1/group", "did you mean GET /v1/groups?"),
        ("/v1/topics/orders/record", f"did you mean {RECORDS}?"),
        ("/v1/topics/orders/messages", f"did you mean {RECORDS}?"),
        ("/v1/topics/orders/partition/0/records", f"did you mean {PARTITION_RECORDS}?"),
        ("/v1/topics/orders/partitions/0/record", f"did you mean {PARTITION_RECORDS}?"),
        ("/v1/topics/orders/", f"did you mean {TOPIC}?"),
        ("/v1/topics/", "did you mean GET /v1/topics?"),
        ("/V1/Topics/orders/Records", f"did you mean {RECORDS}?"),
        ("/api/v1/topics/orders", f"did you mean {TOPIC}?"),
        ("/topics/orders/records", f"did you mean {RECORDS}?"),
        ("/topics/orders", f"did you mean {TOPIC}?"),
        ("/v3/clusters/abc/topics/orders/records", f"did you mean {RECORDS}?"),
        ("/topics/orders/partitions/0/messages", f"did you mean {PARTITION_RECORDS}?"),
        ("/consumers/billing", POLL),
        ("/consumers/billing/instances/ann/records", POLL),
        ("/v1/queues/jobs/ack", "did you mean POST /v1/queues/{queue}/acknowledge?"),
        ("/v1/queues/jobs/pause", 'PATCH /v1/queues/{queue} with {"paused":true} pauses'),
        ("/v1/records", "records are at /v1/topics/{topic}/records"),
        ("/v1/poll", f"poll is at {POLL.removeprefix('POST ')}; /docs shows all paths"),
        ("/v1/acquire", "acquire is at /v1/queues/{queue}/acquire; /docs shows all paths"),
        ("/v1/topics/orders/0/records", "records are at /v1/topics/{topic}/records"),
        ("/v1/topics//records", "a name in it is empty"),
        ("/health", "did you mean GET /healthz?"),
        ("/docs/", "did you mean GET /docs?"),
        ("/v1", "/docs shows all paths"),
        ("/wp-login.php", "/docs shows all paths"),
        ("/" + "a/" * 3_000, "/docs shows all paths"),
    ],
)
async def test_an_unknown_path_names_the_path_that_is_meant(
    sqlite_client: httpx2.AsyncClient, path: str, hint: str
) -> None:
    refused = await sqlite_client.get(path)
    assert (refused.status_code, refused.json()["code"]) == (404, "NOT_FOUND")
    assert refused.json()["detail"].startswith(f"there is nothing at this path; {hint}")


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/v1/groups", f"; {POLL} joins a group, which creates it"),
        ("POST", "/v1/groups/billing", f"; {POLL} joins a group, which creates it"),
        ("PUT", "/v1/groups", f"; {POLL} joins a group, which creates it"),
        ("POST", "/v1/topics", "; PUT /v1/topics/{topic} creates a topic"),
        ("POST", "/v1/queues", "; PUT /v1/queues/{queue} creates a queue"),
        ("POST", "/v1/topics/orders", "; POST /v1/topics/{topic}/records produces, PUT creates the topic"),
        ("PUT", "/v1/topics/orders/records", "; use POST instead of PUT"),
        ("PUT", "/v1/queues/jobs/acquire", "; use POST instead of PUT"),
        ("PATCH", "/v1/transactions", "; use POST instead of PATCH"),
        ("DELETE", "/v1/topics/orders/records", "; DELETE /v1/topics/{topic}/partitions/{partition}/records?before"),
        (
            "GET",
            "/v1/queues/jobs/acquire",
            """; POST: Acquire records under a lock, such as curl --json '{"topic":"orders","max_records":10,""",
        ),
        (
            "GET",
            "/v1/groups/g/members/ann/poll",
            """the whole loop of a consumer, such as curl --json '{"topics":["orders"],"auto_commit":true,""",
        ),
        ("GET", "/v1/groups/g/members", "; GET /v1/groups/{group} lists the members, POST to this path joins"),
        ("DELETE", "/v1/topics", "; GET: List the topics in order of name"),
        ("POST", "/v1/queues/jobs", "; DELETE: Delete a queue with its state; its topics stay, GET: Describe a queue"),
        ("OPTIONS", "/v1/topics/orders/records", "only if MILLRACE_CORS_ORIGINS has that origin"),
    ],
)
async def test_a_method_that_a_path_does_not_have_names_the_call_that_is_meant(
    sqlite_client: httpx2.AsyncClient, method: str, path: str, hint: str
) -> None:
    refused = await sqlite_client.request(method, path)
    assert (refused.status_code, refused.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert hint in refused.json()["detail"]
    assert method not in refused.headers["allow"].split(", ")
