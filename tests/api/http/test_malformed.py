"""Malformed requests get a problem that names the error and does not quote the request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.log.json_pointer import is_deeper
from app.domain.log.record import Record
from app.errors.broker_error import BrokerError

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
SECRET = "s3cr3t-that-nobody-shall-see-again"

BROKEN = {
    "open braces": b'{"a":' * 100_000,
    "nothing": b"",
    "blank": b" ",
    "word": b"hello",
    "nan": b'{"value":NaN}',
    "infinity": b'{"value":-Infinity}',
    "leading zero": b'{"value":01}',
    "no digits": b'{"value":1.}',
    "plus": b'{"value":+1}',
    "hex": b'{"value":0x1}',
    "single quotes": b"{'value':1}",
    "comment": b'{"value":1/*x*/}',
    "trailing comma": b'{"value":[1,]}',
    "two bodies": b'{"value":1}{"value":2}',
    "cut": b'{"value":[1,2',
    "cut string": b'{"value":"abc',
    "cut escape": b'{"value":"\\u12"}',
    "control character": b'{"value":"\x01"}',
    "lone surrogate": b'{"value":"\\ud800"}',
    "lone low surrogate": b'{"value":"\\udc00"}',
    "swapped surrogates": b'{"value":"\\udc00\\ud800"}',
    "surrogate in a name": b'{"value":{"\\ud800":1}}',
    "surrogate in the key": b'{"key":"\\ud800","value":1}',
    "surrogate in a header": b'{"value":1,"headers":{"\\ud800":"v"}}',
    "invalid utf-8": b'{"value":"\xff"}',
    "overlong utf-8": b'{"value":"\xc0\xaf"}',
    "utf-8 surrogate": b'{"value":"\xed\xa0\x80"}',
    "utf-16": '{"value":1}'.encode("utf-16"),
    "nul": b'{"value":1}\x00',
    "depth 501": b'{"value":' + b"[" * 501 + b"]" * 501 + b"}",
    "depth 501 of objects": b'{"value":' + b'{"a":' * 501 + b"1" + b"}" * 501 + b"}",
    "depth 100,000": b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "depth elsewhere": b'{"value":1,"topic":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "open brackets in value": b'{"value":' + b"[" * 10_000_000,
}
WRONG = {
    "list": b"[]",
    "string": b'""',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    "ten million brackets": b"[" * 10_000_000,
    "empty object": b"{}",
    "no records": b'{"records":[]}',
    "records null": b'{"records":null}',
    "records object": b'{"records":{}}',
    "record null": b'{"records":[null]}',
    "record list": b'{"records":[[]]}',
    "record without value": b'{"records":[{"key":"a"}]}',
    "unknown field": b'{"value":1,"valeu":1}',
    "unknown field in a record": b'{"records":[{"value":1,"ttl":1}]}',
    "records and value": b'{"records":[{"value":1}],"value":1}',
    "records and partition": b'{"records":[{"value":1}],"partition":1}',
    "records and timestamp": b'{"records":[{"value":1}],"timestamp_ms":1}',
    "records and encoding": b'{"records":[{"value":1}],"encoding":"text"}',
    "key number": b'{"value":1,"key":1}',
    "key not base64": b'{"value":1,"key":"a","key_encoding":"base64"}',
    "key json": b'{"value":1,"key":"a","key_encoding":"json"}',
    "value not base64": b'{"value":"a","encoding":"base64"}',
    "value base64 with blanks": b'{"value":"aG k=","encoding":"base64"}',
    "value no text": b'{"value":1,"encoding":"text"}',
    "value object as text": b'{"value":{},"encoding":"base64"}',
    "encoding unknown": b'{"value":1,"encoding":"avro"}',
    "encoding null": b'{"value":1,"encoding":null}',
    "partition negative": b'{"value":1,"partition":-1}',
    "partition string": b'{"value":1,"partition":"0"}',
    "partition fraction": b'{"value":1,"partition":0.5}',
    "partition huge": b'{"value":1,"partition":' + b"9" * 5000 + b"}",
    "partition beyond 64 bits": b'{"value":1,"partition":18446744073709551616}',
    "partition unknown": b'{"value":1,"partition":4}',
    "time string": b'{"value":1,"timestamp_ms":"2018"}',
    "time fraction": b'{"value":1,"timestamp_ms":1.5}',
    "time infinite": b'{"value":1,"timestamp_ms":1e999}',
    "time true": b'{"value":1,"timestamp_ms":true}',
    "time beyond 64 bits": b'{"value":1,"timestamp_ms":9223372036854775808}',
    "time huge": b'{"value":1,"timestamp_ms":' + b"9" * 5000 + b"}",
    "headers string": b'{"value":1,"headers":"a"}',
    "header number": b'{"value":1,"headers":{"a":1}}',
    "header without value": b'{"value":1,"headers":[{"name":"a"}]}',
    "header without name": b'{"value":1,"headers":[{"value":"a"}]}',
    "header name null": b'{"value":1,"headers":[{"name":null,"value":"a"}]}',
    "header unknown field": b'{"value":1,"headers":[{"name":"a","value":"a","x":1}]}',
    "header not base64": b'{"value":1,"headers":[{"name":"a","value":"a","encoding":"base64"}]}',
}


async def send(client: httpx2.AsyncClient, body: bytes, query: str = "") -> Any:
    response = await client.post(URL + query, content=body, headers={"Content-Type": "application/json"})
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert len(response.content) < 2000
    return response.json()


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_invalid_json_is_400(sqlite_client: httpx2.AsyncClient, body: bytes) -> None:
    assert (await send(sqlite_client, body))["status"] == 400
    if body.strip():
        for query in ("?lines=records", "?lines=values"):
            assert (await send(sqlite_client, body, query))["status"] in {400, 422}
    assert (await sqlite_client.get(ORDERS)).status_code == 404


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
async def test_json_of_another_type_is_422(sqlite_client: httpx2.AsyncClient, body: bytes) -> None:
    problem = await send(sqlite_client, body)

    assert problem["status"] == 422
    assert (await sqlite_client.get(ORDERS)).status_code == 404


@pytest.mark.parametrize("value", [b"[" * 500 + b"]" * 500, b'{"a":' * 500 + b"1" + b"}" * 500])
async def test_a_value_with_500_levels_is_stored(sqlite_client: httpx2.AsyncClient, value: bytes) -> None:
    for body, query in ((b'{"value":' + value + b"}", ""), (value, "?lines=values")):
        response = await sqlite_client.post(URL + query, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 201
    assert (await sqlite_client.get(URL)).content.count(value) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"partitions":4,"config":' + b'{"x":' * 40 + b"1" + b"}" * 41,
        b"[" * 33 + b"]" * 33,
        b"[" * 10_000_000,
        b"[" * 33 + b'"' + b'\\"' * 1_000_000,
        b"[" * 33 + b'"' * 1_000_001,
        b'{"a":"' + b"[" * 1000,
    ],
    ids=["deep", "33", "ten million", "escaped quotes", "quotes", "cut"],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_deeply_nested_or_long_topic_configuration_is_refused(
    sqlite_client: httpx2.AsyncClient, method: str, body: bytes
) -> None:
    response = await sqlite_client.request(method, ORDERS, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code in {400, 422}


async def test_brackets_in_strings_do_not_count_as_levels() -> None:
    nested = b'{"a":"[[[[","b":"\\"[[","c":[{}]}'
    assert not is_deeper(nested, 3)
    assert is_deeper(nested, 2)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", URL, '{"value":"%s}'),
        ("POST", URL, '{"value":1,"key":["%s"]}'),
        ("POST", URL, '{"value":1,"encoding":"%s"}'),
        ("POST", URL, '{"value":"%s!","encoding":"base64"}'),
        ("POST", URL + "?lines=values&timestamp_from=/at", '{"at":"%s"}'),
        ("POST", URL + "?lines=%s", "{}"),
        ("POST", URL + "?timestamp_ms=%s", "{}"),
        ("GET", URL + "?offset=%s", ""),
        ("GET", URL + "?offset=@%s", ""),
        ("GET", URL + "?max_records=%s", ""),
        ("GET", f"{ORDERS}/records?cursor=%s", ""),
        ("GET", "/v1/topics?cursor=%s", ""),
        ("GET", f"{ORDERS}/partitions/%s/records", ""),
        ("GET", "/v1/topics/%s", ""),
        ("PUT", "/v1/topics/%s%%20", ""),
        ("PUT", ORDERS, '{"partitions":"%s"}'),
        ("GET", "/%s", ""),
        ("%s", "/v1/topics", ""),
    ],
)
async def test_a_problem_does_not_quote_the_request(
    sqlite_client: httpx2.AsyncClient, method: str, path: str, body: str
) -> None:
    await sqlite_client.put(ORDERS)

    response = await sqlite_client.request(
        method.replace("%s", SECRET.upper()),
        path.replace("%s", SECRET).replace("%%", "%"),
        content=body.replace("%s", SECRET),
        headers={"Content-Type": "application/json"},
    )

    assert 400 <= response.status_code < 500
    assert SECRET not in response.text
    assert SECRET.upper() not in response.text


async def test_a_problem_has_at_most_ten_errors(sqlite_client: httpx2.AsyncClient) -> None:
    body = {"records": [{"value": 1, "partition": 99}] * 50}

    problem = (await sqlite_client.post(f"{ORDERS}/records", json=body)).json()

    assert 1 <= len(problem["errors"]) <= 10


@pytest.mark.parametrize("query", ["a=%FF", "a=%ED%A0%80", "=%C0%AF", "&".join(f"a{n}=1" for n in range(101))])
@pytest.mark.parametrize("path", [URL, "/v1/topics", f"{ORDERS}/records"])
async def test_a_malformed_query_is_400(sqlite_client: httpx2.AsyncClient, path: str, query: str) -> None:
    response = await sqlite_client.get(f"{path}?{query}")

    assert (response.status_code, response.json()["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("path", ["/v1/topics/%", "/v1/topics/%ZZ", "/v1/topics/%FF/records", "/v1/topics/%00"])
async def test_a_malformed_path_is_not_a_topic(sqlite_client: httpx2.AsyncClient, path: str) -> None:
    assert (await sqlite_client.get(path)).status_code in {404, 405, 422}
    assert (await sqlite_client.post(path, content=b"")).status_code in {404, 405, 422}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)


def is_json(text: bytes) -> bool:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(text.decode(), parse_constant=refuse)
        json.dumps(json.loads(text.decode()), ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_VALUES, ascii_only=st.booleans(), data=st.data())
def test_a_value_is_accepted_if_and_only_if_it_is_json(value: Any, ascii_only: bool, data: st.DataObject) -> None:
    from app.api.log.record_decoding import decode_json_body
    from app.api.log.value_lines import decode_value_lines

    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    place = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 2))
    garbled = (
        text[:place]
        + data.draw(st.binary(max_size=2) | st.sampled_from([b"\\u", b"[", b'"', b"e"]))
        + text[place + length :]
    )

    def is_accepted(body: bytes, records: list[Record] | None = None) -> bool:
        for decode, wrapped in (
            (lambda json: decode_json_body(json, 1), b'{"value":' + body + b"}"),
            (lambda lines: decode_value_lines(lines, None, None, 1), body),
        ):
            try:
                (record,) = decode(wrapped)  # type: ignore[no-untyped-call]  # a lambda
            except (BrokerError, ValueError):
                return False
            assert record.value == (None if body.strip() == b"null" else body.strip())
        return True

    assert is_accepted(text)
    if b"\n" not in garbled and b"}" not in garbled:
        assert is_accepted(garbled) == is_json(garbled)
