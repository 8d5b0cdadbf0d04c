"""Validation errors name the field, the index and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

ACKNOWLEDGE = "/v1/queues/jobs/acknowledge"
POLL = "/v1/groups/billing/members/ann/poll"
OFFSETS = "/v1/groups/billing/offsets"
RECORDS = "/v1/topics/orders/records"
TRANSACTIONS = "/v1/transactions"
GOOD = {"topic": "orders", "partition": 0, "offset": 0}


@pytest.mark.parametrize(
    ("path", "body", "detail", "index", "field"),
    [
        (
            ACKNOWLEDGE,
            {"acknowledgements": [{"id": "x", "outcome": "accept"}]},
            "acknowledgement 0: there is no field id; there are delivery_id, outcome, delay_ms",
            0,
            "id",
        ),
        (
            ACKNOWLEDGE,
            {"acknowledgements": [{"delivery_id": "1.0.0.1", "outcome": "accept"}, {"outcom": "accept"}]},
            "acknowledgement 1: there is no field outcom; did you mean outcome?",
            1,
            "outcom",
        ),
        (
            ACKNOWLEDGE,
            {"acknowledgements": [{"outcome": "accept"}]},
            "acknowledgement 0: field delivery_id is required",
            0,
            "delivery_id",
        ),
        (ACKNOWLEDGE, [], "the JSON must be an object with acknowledgements", None, None),
        (
            OFFSETS,
            {"offsets": [GOOD, GOOD, GOOD | {"partition": "0"}]},
            "offset 2: field partition: must be an integer",
            2,
            "partition",
        ),
        (POLL, {"commit": [GOOD, GOOD | {"ofset": 0}]}, "commit 1: there is no field ofset; did you mean", 1, "ofset"),
        (POLL, {"topics": "orders"}, 'field topics: must be a list, such as ["orders"]', None, "topics"),
        (POLL, {"topics": ["orders", 2]}, "topic 1: must be a string", 1, "topics"),
        (POLL, {"auto_commit": "yes"}, "field auto_commit: must be true or false", None, "auto_commit"),
        (
            POLL,
            {"owned": [{"topic": "orders", "partitions": [0, "1"]}]},
            "owned 0: partition 1: must be an integer",
            0,
            "partitions",
        ),
        (
            TRANSACTIONS,
            {"produce": [{"topic": "orders", "records": [{"value": 1}, {"valeu": 1}]}]},
            "produce 0: record 1: there is no field valeu; did you mean value?",
            0,
            "records.valeu",
        ),
        (RECORDS, {"records": [{"value": 1}, {"valeu": 1}]}, "record 1: there is no field valeu", 1, "valeu"),
        (
            RECORDS,
            {"records": [{"value": 1, "headers": [{"nam": "n", "value": "v"}]}]},
            "record 0: field headers: there is no field nam; did you mean name?",
            0,
            "headers.nam",
        ),
        (RECORDS, {"records": {}}, "field records: must be a list", None, "records"),
    ],
)
async def test_an_error_names_its_field_and_index_and_the_accepted_values(
    sqlite_client: httpx2.AsyncClient, path: str, body: Any, detail: str, index: int | None, field: str | None
) -> None:
    refused = await sqlite_client.post(path, json=body)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (422, "INVALID_REQUEST")
    assert problem["detail"].startswith(detail)
    (error,) = problem["errors"]
    assert (error.get("index"), error.get("field")) == (index, field)


async def test_an_unknown_field_of_a_topic_configuration_suggests_the_closest_name(
    sqlite_client: httpx2.AsyncClient,
) -> None:
    refused = await sqlite_client.put("/v1/topics/orders", json={"config": {"retention": 1}})
    assert refused.json()["detail"] == "field config: there is no field retention; did you mean retention_ms?"
    assert refused.json()["errors"][0]["field"] == "config.retention"


async def test_an_invalid_boolean_parameter_must_be_true_or_false(sqlite_client: httpx2.AsyncClient) -> None:
    refused = await sqlite_client.get(RECORDS, params={"follow": "yes"})
    assert refused.json()["detail"] == "parameter follow: must be true or false"
