"""A text that is not JSON is refused with the place and what to change, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

RECORDS = "/v1/topics/orders/records"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("{'value':1}", "at byte 1: JSON needs double quotes"),
        ("{value:1}", "at byte 1: JSON needs double quotes around names and strings; cmd.exe"),
        ('{"value":hello}', "at byte 9: JSON needs double quotes"),
        ("'{\"value\":1}'", "at byte 0: the JSON begins with a single quote; cmd.exe"),
        ('{\\"value\\":1}', "at byte 1: there is a backslash before the quote; cmd.exe"),
        ("{“value”:1}", "at byte 1: there are curly quotes"),
        ('{"value":1,}', "at byte 11: there is a comma before the closing bracket; remove it"),
        ('{"records":[{"value":1},]}', "at byte 24: there is a comma before the closing bracket; remove it"),
        ('{"value":NaN}', "at byte 9: JSON has no NaN"),
        ('{"value":-Infinity}', "JSON has no Infinity"),
        ('{"value":True}', "at byte 9: true in JSON is written in lower case"),
        ('{"value":None}', "JSON has no None; write null"),
        ('{"value":undefined}', "JSON has no undefined"),
        ('// a\n{"value":1}', "at byte 0: JSON has no comments"),
        ('{"value":1 /* a */}', "at byte 11: JSON has no comments"),
        ('{"value":1} # a', "at byte 12: JSON has no comments"),
        ('{"value":1', "it ends too early"),
        ('{"value":"a', "it ends too early"),
        ('{"value":"\\ud800"}', "half of a surrogate pair"),
        ('{"value":1} {"value":2}', "at byte 12: a second value follows the first; send one record per line"),
        ('{"value":1}\n{"value":2}', "with ?lines=records"),
        ('{"value":1}}', "at byte 11: there is one closing bracket too many"),
        ('{"value":1},', "at byte 11: there is a comma after the end"),
        ('{"value":01}', "a number is written as"),
        ('{"value":.5}', "a number is written as"),
        ('{"value":+1}', "a number is written as"),
        ('{"value":"a\nb"}', "a line break in a string is written as \\n"),
        ('{"value":"a\tb"}', "a tab in a string is written as \\t"),
        ('{"value":"C:\\x"}', "a backslash in a string is written as two backslashes"),
        ('{"value" 1}', "a colon is missing"),
        ('{"value":1 "key":"a"}', "a comma or a closing bracket is missing"),
        ('{"value":}', "a value is missing"),
        ('{"value":"\x01"}', "a control character in a string"),
        ("<value/>", "the text is XML or HTML"),
    ],
)
async def test_a_body_that_is_not_json_is_refused_with_its_place_and_a_hint(
    sqlite_client: httpx2.AsyncClient, body: str, hint: str
) -> None:
    refused = await sqlite_client.post(RECORDS, content=body.encode(), headers=JSON)
    detail = refused.json()["detail"]
    assert refused.status_code == 400
    assert detail.startswith("the body is not valid JSON: ")
    assert hint in detail
    assert "malformed" not in detail


@pytest.mark.parametrize("lines", ["records", "values"])
async def test_a_line_that_is_not_json_is_named_instead_of_the_body(
    sqlite_client: httpx2.AsyncClient, lines: str
) -> None:
    body = b'{"value":1}\n\n{"value":2} {"value":3}\n'
    refused = await sqlite_client.post(f"{RECORDS}?lines={lines}", content=body, headers=JSON)
    problem = refused.json()
    assert problem["detail"] == (
        "record 1, line 3: the line is not valid JSON: at byte 12: "
        "a second value follows the first; send each value on its own line"
    )
    assert problem["errors"][0]["index"] == 1


async def test_a_line_that_is_not_utf8_is_named(sqlite_client: httpx2.AsyncClient) -> None:
    refused = await sqlite_client.post(f"{RECORDS}?lines=values", content=b'1\n"\xff"\n', headers=JSON)
    assert refused.json()["detail"] == "record 1, line 2: the line is not valid UTF-8 (byte 1)"


async def test_several_values_for_another_operation_do_not_suggest_lines(sqlite_client: httpx2.AsyncClient) -> None:
    refused = await sqlite_client.put("/v1/topics/orders", content=b"{} {}", headers=JSON)
    assert (
        refused.json()["detail"] == "the body is not valid JSON: at byte 3: a second value follows the first; send one"
    )


@pytest.mark.parametrize("body", [b"'" * 5_000, b"#" * 5_000, b"\xc2\xa0{}", b"\\ud800", b"-", b"", b"\x00"])
async def test_a_hint_has_a_bounded_length_and_does_not_repeat_the_body(
    sqlite_client: httpx2.AsyncClient, body: bytes
) -> None:
    refused = await sqlite_client.put("/v1/queues/jobs", content=body + b'x"secret', headers=JSON)
    assert refused.status_code == 400
    assert len(refused.json()["detail"]) < 300
    assert "secret" not in refused.json()["detail"]
