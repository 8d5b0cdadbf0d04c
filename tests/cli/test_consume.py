"""`millrace consume` without a group: its start, its end, and byte-exact output."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import MILLRACE, Cli, Serving, await_line, free_port, serving
from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    from pathlib import Path

JSON_VALUES = [
    b"0",
    b"-0",
    b"1.0",
    b"1.00",
    b"1e5",
    b"1E+05",
    b"12345678901234567890123456789",
    b"9007199254740993",
    b"false",
    b'""',
    b"[]",
    b"{}",
    b'{ "b" : 1 ,  "a":[ 1.50 ] }',
    b'{"a":1,"a":2}',
    b'"\\u00e9\\/ \xc3\xa9 \\ud83d\\ude00"',
]

RECORDS = [
    (
        b'{"key":"k","value":{"n":1.0},"headers":[{"name":"n","value":"1"},{"name":"n","value":null},'
        b'{"name":"n","value":"AAE=","encoding":"base64"},{"name":"","value":""}],"timestamp_ms":1517363399650}'
    ),
    b'{"key":null,"value":null}',
    b'{"key":"k","value":null,"headers":[{"name":"why","value":"gone"}]}',
    b'{"key":"","value":"json text"}',
    b'{"key":"AP8=","key_encoding":"base64","value":"//4A","encoding":"base64"}',
    b'{"value":"two\\nlines \\"q\\" \xc3\xa9","encoding":"text"}',
    b'{"value":"","encoding":"base64"}',
    *(b'{"key":"v","value":%b}' % value for value in JSON_VALUES),
]


def test_a_copy_of_a_topic_is_equal_byte_for_byte(cli: Cli) -> None:
    for topic in ("original", "copy"):
        cli.ok("topics", "create", topic, "-p", "2", "-c", "retention_ms=-1")
    cli.ok("produce", "original", "--format", "records", stdin=b"\n".join(RECORDS))
    cli.ok("produce", "original", "-p", "1", stdin=b"1\n2\n")
    done = cli.shell(f"{MILLRACE} consume original | {MILLRACE} produce copy --format records")
    assert done.code == 0, done.err
    for partition in ("0", "1"):
        original = cli.ok("consume", "original", "-p", partition).out
        assert original
        assert cli.ok("consume", "copy", "-p", partition).out == original


def test_values_keep_their_exact_json(cli: Cli, topic: str) -> None:
    cli.ok("produce", topic, "-p", "0", stdin=b"\n".join(JSON_VALUES))
    assert cli.ok("consume", topic, "--format", "values").lines == JSON_VALUES
    records = cli.ok("consume", topic).lines
    assert [line.partition(b'"value":')[2][:-1] for line in records] == JSON_VALUES


def test_headers_keep_their_order_and_their_duplicates(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-c", "retention_ms=-1")
    cli.ok("produce", topic, "--format", "records", stdin=RECORDS[0])
    assert json.loads(cli.ok("consume", topic, "-n", "1").out)["headers"] == [
        {"name": "n", "value": "1"},
        {"name": "n", "value": None},
        {"name": "n", "value": "AAE=", "encoding": "base64"},
        {"name": "", "value": ""},
    ]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], list(range(1_200))),
        (["-n", "700"], list(range(700))),
        (["-o", "earliest", "-n", "1"], [0]),
        (["-o", "latest"], []),
        (["-o", "-3"], [1_197, 1_198, 1_199]),
        (["-o", "@1517363400000", "-n", "1"], [350]),
        (["-o", "@2018-01-31T01:50:00Z", "-n", "1"], [350]),
        (["-p", "1", "-o", "1190", "-n", "2"], [1_190, 1_191]),
        (["-p", "1", "-o", "-2"], [1_198, 1_199]),
        (["-p", "0"], []),
    ],
)
def test_offset_and_count_select_the_records(cli: Cli, numbers: str, words: list[str], values: list[int]) -> None:
    done = cli.ok("consume", numbers, "--format", "values", *words)
    assert [json.loads(line)["n"] for line in done.lines] == values


@pytest.fixture(scope="module")
def numbers(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A topic with 1,200 records in partition 1, a millisecond apart."""
    cli = Cli(tmp_path_factory.mktemp("numbers"), server.url)
    cli.ok("topics", "create", "numbers", "-p", "2", "-c", "retention_ms=-1")
    lines = b"".join(b'{"n":%d,"t":%d}\n' % (n, 1_517_363_399_650 + n) for n in range(1_200))
    cli.ok("produce", "numbers", "-p", "1", "--timestamp", "/t", stdin=lines)
    return "numbers"


def test_a_closed_pipe_is_no_error(cli: Cli, numbers: str) -> None:
    done = cli.shell(f"{MILLRACE} consume {numbers} | head -1")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["offset"] == 0


def test_unknown_topics_and_invalid_offsets_are_refused(cli: Cli, numbers: str) -> None:
    assert cli("consume", "nowhere").code == 3
    assert cli("consume", numbers, "-p", "7").code == 3
    assert cli("consume", numbers, "-p", "1", "-o", "9999").code == 4
    assert cli("consume", numbers, "-o", "sometimes").code == 4
    assert cli("consume", numbers, "--format", "xml").code == 2


def test_follow_from_latest_prints_later_records_and_ctrl_c_exits_with_130(cli: Cli, topic: str) -> None:
    cli.ok("produce", topic, stdin=b'"before"\n')
    with cli.started("consume", topic, "--follow", "-o", "latest", "--format", "values", "-v") as consumer:
        assert consumer.stdout is not None
        await_line(consumer, containing="max_wait_ms=30000")
        cli.ok("produce", topic, stdin=b'"after"\n')
        assert consumer.stdout.readline() == b'"after"\n'
        consumer.send_signal(signal.SIGINT)
        assert consumer.wait() == 130


def test_follow_continues_after_a_restart_of_the_server(tmp_path: Path) -> None:
    port = str(free_port())
    cli = Cli(tmp_path, f"http://127.0.0.1:{port}")
    with serving(tmp_path, "--port", port) as server:
        cli.ok("produce", "t", stdin=b"1\n")
        with cli.started("consume", "t", "-f", "-n", "2", "--format", "values") as consumer:
            assert consumer.stdout is not None
            assert consumer.stdout.readline() == b"1\n"
            server.process.kill()
            await_line(consumer, containing="trying again")
            with serving(tmp_path, "--port", port):
                cli.ok("produce", "t", stdin=b"2\n")
                assert consumer.stdout.readline() == b"2\n"
                assert consumer.wait() == 0


def test_follow_fails_if_the_server_is_unavailable_at_the_start(cli: Cli) -> None:
    assert cli("consume", "t", "-f", "--url", f"http://127.0.0.1:{free_port()}").code == 5


def test_a_terminal_shows_one_readable_line_for_each_record_without_control_characters(cli: Cli, topic: str) -> None:
    records = b'{"key":"k\\u001b[2J","value":{"a":"\\u009b"},"timestamp_ms":1517363399650}\n{"value":null}\n'
    cli.ok("topics", "create", topic, "-p", "1", "-c", "retention_ms=-1")
    cli.ok("produce", topic, "--format", "records", stdin=records)
    code, shown = on_terminal(cli, "consume", topic)
    assert code == 0
    first, second = shown.splitlines()
    assert first == '0/0  2018-01-31T01:49:59.650Z  k\\u001b[2J  {"a":"\\u009b"}'
    assert second.startswith("0/1  ")
    assert second.endswith("  null  null")
