"""Validation errors name the field, the index and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

ACQUIRE = "/v1/queues/jobs/acquire"
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
            "acknowledgement 0: there is no field id; the fields are delivery_id, outcome, delay_ms",
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
        (
            POLL,
            {"topics": "orders"},
            'field topics: must be a list of at most 1000 items, such as ["orders"]',
            None,
            "topics",
        ),
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
            "record 0: header 0: there is no field nam; did you mean name?",
            0,
            "headers.nam",
        ),
        (RECORDS, {"records": {}}, "field records: must be a list", None, "records"),
        (RECORDS, {"records": [{"value": 1}, 5]}, "record 1: must be an object with value, key, ", 1, None),
        (
            RECORDS,
            {"records": [{"value": 1, "headers": [{"name": "a", "value": "b"}, {"name": 1, "value": "b"}]}]},
            "record 0: header 1: field name: must be a string",
            0,
            "headers.name",
        ),
        (ACQUIRE, {"max_records": 0}, "field max_records: must be an integer from 1 to 10000", None, "max_records"),
        (
            ACQUIRE,
            {"max_records": 10_001},
            "field max_records: must be an integer from 1 to 10000",
            None,
            "max_records",
        ),
        (ACQUIRE, {"max_records": "ten"}, "field max_records: must be an integer from 1 to 10000", None, "max_records"),
        (ACQUIRE, {"MaxRecords": 1}, "there is no field MaxRecords; did you mean max_records?", None, "MaxRecords"),
        (
            RECORDS,
            {"records": [{"value": 1, "partition": -1}]},
            "record 0: field partition: must be an integer",
            0,
            "partition",
        ),
        (
            ACKNOWLEDGE,
            {"acknowledgements": []},
            "field acknowledgements: must be a list of 1 to ",
            None,
            "acknowledgements",
        ),
        (
            ACKNOWLEDGE,
            {"acknowledgements": [{"delivery_id": "1" * 65, "outcome": "accept"}]},
            "acknowledgement 0: field delivery_id: must be a string of at most 64 characters",
            0,
            "delivery_id",
        ),
        (
            ACKNOWLEDGE,
            {"delivery_id": "1.0.0.1"},
            'there is no field delivery_id; send {"acknowledgements":[{"delivery_id":…}]}',
            None,
            "delivery_id",
        ),
        (POLL, {"topic": ["orders"]}, "there is no field topic; did you mean topics?", None, "topic"),
        (
            POLL,
            {"topics": ["orders"], "session_timeout_ms": 45},
            "field session_timeout_ms: must be an integer from 1000 to 1800000, in milliseconds",
            None,
            "session_timeout_ms",
        ),
        (
            ACQUIRE,
            {"lock_duration_ms": 30},
            "field lock_duration_ms: must be an integer from 1000 to 3600000, in milliseconds",
            None,
            "lock_duration_ms",
        ),
        (POLL, {"epoch": 1}, "there is no field epoch; did you mean member_epoch?", None, "epoch"),
        (RECORDS, {"messages": []}, "there is no field messages; did you mean records?", None, "messages"),
        (RECORDS, {"records": [{"data": 1}]}, "record 0: there is no field data; did you mean value?", 0, "data"),
        (
            RECORDS,
            {"records": [{"value": 1, "headers": [{"key": "a", "value": "b"}]}]},
            "record 0: header 0: there is no field key; did you mean name?",
            0,
            "headers.key",
        ),
        (
            RECORDS,
            {"records": [{"value": 1, "headers": ["a"]}]},
            'record 0: header 0: must be an object with name, value, encoding; send {"name":…,"value":…}',
            0,
            "headers",
        ),
        (
            RECORDS,
            {"records": [{"value": 1, "headers": {"a": 1}}]},
            "record 0: field headers: each value must be a string, in quotes",
            0,
            "headers",
        ),
        (
            RECORDS,
            {"value": 1, "headers": {"a": ["b"]}},
            "field headers: each value must be a string, in quotes",
            None,
            "headers",
        ),
        (
            TRANSACTIONS,
            {"records": []},
            'there is no field records; send {"produce":[{"records":…}]}',
            None,
            "records",
        ),
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


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"retention_ms": 1}, 'there is no field retention_ms; send {"config":{"retention_ms":…}}'),
        ({"retention": 1}, 'there is no field retention; send {"config":{"retention_ms":…}}'),
        ({"partition": 3}, "there is no field partition; did you mean partitions?"),
        (
            {"config": {"partitions": 3}},
            "field config: there is no field partitions; partitions belongs beside config, not into it",
        ),
        ({"xyzzy": 3}, "there is no field xyzzy; the fields are partitions, config"),
    ],
)
async def test_a_field_at_the_wrong_level_of_a_topic_is_told_its_place(
    sqlite_client: httpx2.AsyncClient, body: Any, detail: str
) -> None:
    for send in (sqlite_client.put, sqlite_client.patch):
        assert (await send("/v1/topics/orders", json=body)).json()["detail"] == detail


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("max_records=1&max_records=2", "parameter max_records is given twice; send one"),
        ("offset=1&max_records=1&offset=1", "parameter offset is given twice; send one"),
        ("max_records=0", "parameter max_records: must be an integer from 1 to 10000"),
        ("max_records=", "parameter max_records: must be an integer from 1 to 10000"),
        ("limit=1", "there is no parameter limit; the parameters are offset, max_records"),
        ("maxrecords=1", "there is no parameter maxrecords; did you mean max_records?"),
    ],
)
async def test_an_invalid_query_names_the_parameter(sqlite_client: httpx2.AsyncClient, query: str, detail: str) -> None:
    refused = await sqlite_client.get(f"{RECORDS}?{query}")
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith(detail)


async def test_a_field_of_the_body_in_the_query_is_told_its_place(sqlite_client: httpx2.AsyncClient) -> None:
    refused = await sqlite_client.put("/v1/topics/orders?partitions=3")
    assert refused.json()["detail"] == (
        'this operation takes no parameters in the query; send {"partitions":…} as JSON in the body'
    )


@pytest.mark.parametrize(
    ("partition", "status", "detail"),
    [
        ("-1", 404, "there is no partition -1; partitions have numbers from 0; "),
        ("0x1", 422, "partition in the path must be an integer from 0, in decimal digits, such as 0"),
        ("abc", 422, "partition in the path must be an integer from 0, in decimal digits, such as 0"),
    ],
)
async def test_a_partition_that_is_no_number_from_0_is_explained(
    sqlite_client: httpx2.AsyncClient, partition: str, status: int, detail: str
) -> None:
    refused = await sqlite_client.get(f"/v1/topics/orders/partitions/{partition}/records")
    assert refused.status_code == status
    assert refused.json()["detail"].startswith(detail)
