"""`millrace produce`: appended records, their order, exactly-once delivery, and failures."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.lossy_proxy import lossy_proxy
from tests.cli.processes import DEADLINE_S, MILLRACE, Cli, await_line, free_port, serving, wait_until
from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    import subprocess


def quakes(count: int) -> bytes:
    return b"".join(
        b'{"network":"n%d","time":%d,"magnitude":%d.50}\n' % (number % 7, 1_517_363_399_650 + number, number)
        for number in range(count)
    )


FULL_BATCH = 10_000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def feed(producer: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to the producer's input, which stays open."""
    assert producer.stdin is not None
    producer.stdin.write(data)
    producer.stdin.flush()


def await_read(producer: subprocess.Popen[bytes]) -> None:
    """Wait until the producer has read all of its input: a pipe of one page is writable when it is empty."""
    assert producer.stdin is not None
    _, writable, _ = select.select([], [producer.stdin], [], DEADLINE_S)
    assert writable


def is_waiting_with_handlers(pid: int) -> bool:
    """Return whether a process sleeps and handles SIGHUP, as `produce` does while it opens its input."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    handled = int(status["SigCgt"], 16)
    return bool(handled >> (signal.SIGHUP - 1) & 1) and status["State"].startswith("S")


def consumed(cli: Cli, topic: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli.ok("consume", topic).lines]


def test_a_file_of_values_with_key_and_time_from_each(cli: Cli, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "quakes.ndjson"
    file.write_bytes(quakes(1_200))
    cli.ok("topics", "create", topic, "-c", "retention_ms=-1")
    done = cli.ok("produce", topic, file, "--key", "/network", "--timestamp", "/time")
    assert done.out == b""
    assert done.err.startswith("sent 1200 records in 3 requests, 0.1 MB, ")
    assert done.err.endswith(" records/s\n")
    records = consumed(cli, topic)
    assert len(records) == 1_200
    assert all(record["key"] == record["value"]["network"] for record in records)
    assert all(record["timestamp_ms"] == record["value"]["time"] for record in records)
    assert sorted(cli.ok("consume", topic, "--format", "values").lines) == sorted(quakes(1_200).splitlines())


def test_several_connections_keep_the_order_of_each_key(cli: Cli, topic: str) -> None:
    cli.ok("produce", topic, "--key", "/network", "--connections", "4", "--batch", "20", stdin=quakes(1_000))
    seen: dict[str, list[int]] = {}
    for record in consumed(cli, topic):
        seen.setdefault(record["key"], []).append(record["value"]["time"])
    assert sum(map(len, seen.values())) == 1_000
    assert all(times == sorted(times) for times in seen.values())


def test_several_connections_share_lines_without_a_key(cli: Cli, topic: str) -> None:
    done = cli.ok("produce", topic, "--connections", "3", "--batch", "10", stdin=quakes(95))
    assert done.err.startswith("sent 95 records in 10 requests, ")
    assert len(consumed(cli, topic)) == 95


def test_one_partition_takes_everything(cli: Cli, topic: str) -> None:
    cli.ok("produce", topic, "--partition", "2", "--key", "/network", stdin=quakes(10))
    assert {record["partition"] for record in consumed(cli, topic)} == {2}


def test_text_lines_are_stored_as_text_or_as_bytes(cli: Cli, topic: str) -> None:
    lines = b'plain\n{"not":json}\n\n\xff\xfe\n\xc3\xa9 without end'
    cli.ok("produce", topic, "--format", "text", "-p", "0", stdin=lines)
    assert cli.ok("consume", topic, "--format", "text").out == lines + b"\n"
    assert [record.get("encoding") for record in consumed(cli, topic)] == ["text", "text", "text", "base64", "text"]


def test_timestamps_in_seconds_are_warned_of_with_their_lines(cli: Cli, topic: str) -> None:
    lines = b'\n{"at":1517363399650}\n' + b'{"at":1517363399}\n' * 30

    done = cli.ok("produce", topic, "--timestamp", "/at", "--batch", "8", stdin=lines)

    *warnings, more, summary = done.err.splitlines()
    assert len(warnings) == 10
    assert warnings[0] == (
        "millrace: warning: line 3: the timestamp 1517363399 is a time on 1970-01-18, because it is in milliseconds; "
        "if it is in seconds, multiply it by 1000"
    )
    assert more == "millrace: further warnings are not shown"
    assert summary.startswith("sent 31 records")


@pytest.mark.parametrize("line_format", ["values", "text"])
def test_the_bar_of_a_file_is_full_when_all_lines_are_sent(
    cli: Cli, topic: str, tmp_path: Path, line_format: str
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"\n" * 900 + b'"' + b"x" * 97 + b'"\n')

    code, shown = on_terminal(cli, "produce", topic, str(file), "--format", line_format)

    assert code == 0
    assert "\u2501" in shown
    assert "1.0/1.0 kB" in shown


def test_an_input_of_unknown_size_has_no_bar(cli: Cli, topic: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"1\n" * 100,))
    writer.start()

    code, shown = on_terminal(cli, "produce", topic, str(fifo))

    writer.join()
    assert code == 0
    assert "100 records" in shown
    assert "\u2501" not in shown


@pytest.mark.parametrize("lines", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_an_input_without_lines_says_that_nothing_was_produced(cli: Cli, topic: str, lines: bytes) -> None:
    done = cli.ok("produce", topic, "--key", "/a", stdin=lines)

    assert done.err == "millrace: nothing was produced: the input has no line with content\n"


@pytest.mark.parametrize("option", ["--key", "--timestamp"])
def test_a_pointer_without_a_slash_is_refused_before_the_input_is_read(cli: Cli, topic: str, option: str) -> None:
    done = cli("produce", topic, option, "a", stdin=b"")

    assert done.code == 2
    assert "as in /a" in done.err


@pytest.mark.parametrize(
    ("line_format", "line", "value"),
    [("values", b'"a"', "a"), ("records", b'{"value":"a"}', "a"), ("text", b"a", "a")],
)
def test_a_byte_order_mark_is_skipped(cli: Cli, topic: str, line_format: str, line: bytes, value: str) -> None:
    cli.ok("produce", topic, "--format", line_format, "--connections", "2", stdin=b"\xef\xbb\xbf" + line + b"\n")

    assert [record["value"] for record in consumed(cli, topic)] == [value]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_format", ["values", "text"])
def test_utf_16_is_refused(cli: Cli, topic: str, encoding: str, line_format: str) -> None:
    done = cli("produce", topic, "--format", line_format, stdin='\ufeff{"a":1}\n'.encode(encoding))

    assert done.code == 1
    assert done.err == "millrace: the input is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 FILE\n"


def test_an_error_names_the_line_and_appends_nothing_of_its_request(cli: Cli, topic: str) -> None:
    lines = quakes(12) + b'\n{"no":"network"}\n' + quakes(3)
    done = cli("produce", topic, "--key", "/network", "--batch", "5", stdin=lines)
    assert done.code == 4
    message, summary = done.err.splitlines()
    assert message == (
        "millrace: line 14: --key points at nothing in this value (INVALID_REQUEST); "
        "the request with lines 11 to 16 was not appended"
    )
    assert summary.startswith("sent 10 records in 2 requests")
    assert len(consumed(cli, topic)) == 10


def test_a_line_that_is_not_json_is_named(cli: Cli, topic: str) -> None:
    done = cli("produce", topic, stdin=b'1\n\n{"a":\n3\n')
    assert done.code == 4
    assert done.err.startswith("millrace: line 3: the line is not valid JSON: it ends too early")


def test_pointers_need_values_and_the_file_must_exist(cli: Cli, topic: str) -> None:
    assert cli("produce", topic, "--format", "text", "--key", "/a").code == 2
    done = cli("produce", topic, "nowhere.ndjson")
    assert (done.code, done.err) == (1, "millrace: cannot read nowhere.ndjson: No such file or directory\n")


def test_lines_of_an_open_pipe_are_sent_after_linger_ms(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with cli.started("produce", topic) as producer, cli.started("consume", topic, "-f", "-n", "2") as consumer:
        assert producer.stdin is not None
        assert consumer.stdout is not None
        for number in (1, 2):
            producer.stdin.write(b"%d\n" % number)
            producer.stdin.flush()
            assert json.loads(consumer.stdout.readline())["value"] == number
        producer.stdin.close()
        assert (producer.wait(), consumer.wait()) == (0, 0)


def test_linger_ms_also_ends_a_batch_while_lines_keep_arriving(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with (
        cli.started("produce", topic, "--batch", str(FULL_BATCH)) as producer,
        cli.started("consume", topic, "-f", "-n", "1") as consumer,
    ):
        assert consumer.stdout is not None
        for number in range(FULL_BATCH - 1):
            feed(producer, b"%d\n" % number)
            consumed_first, _, _ = select.select([consumer.stdout], [], [], 0.01)
            if consumed_first:
                break
        assert consumer.wait() == 0


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sends_the_lines_that_were_read(cli: Cli, topic: str, signal_number: int) -> None:
    with cli.started("produce", topic, "--linger-ms", "60000") as producer:
        assert producer.stdin is not None
        fcntl.fcntl(producer.stdin, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
        feed(producer, b"1\n2\n3")
        await_read(producer)
        producer.send_signal(signal_number)
        assert producer.wait() == 130
    assert [record["value"] for record in consumed(cli, topic)] == [1, 2]


def test_a_second_signal_exits_without_sending(tmp_path: Path) -> None:
    cli = Cli(tmp_path, f"http://127.0.0.1:{free_port()}")
    with cli.started("produce", "t", "--retries", "100") as producer:
        feed(producer, b"1\n")
        await_line(producer, containing="Connection refused; trying again")
        producer.send_signal(signal.SIGTERM)
        producer.send_signal(signal.SIGINT)  # another signal than the first: equal pending signals are merged
        assert producer.wait() == 130
        await_line(producer, containing="ended before all lines were confirmed")


def test_a_server_that_starts_later_gets_each_line_once(tmp_path: Path) -> None:
    port = free_port()
    cli = Cli(tmp_path, f"http://127.0.0.1:{port}")
    with cli.started("produce", "t", "--retries", "20") as producer:
        assert producer.stdin is not None
        producer.stdin.write(b"1\n2\n")
        producer.stdin.close()
        await_line(producer, containing="Connection refused; trying again")
        with serving(tmp_path, "--port", str(port)):
            assert producer.wait() == 0
            assert [record["value"] for record in consumed(cli, "t")] == [1, 2]


def test_a_lost_answer_duplicates_no_record(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with lossy_proxy(cli.url, lambda number: number < 2) as url:
        done = cli.ok("produce", topic, "--batch", "2", "--url", url, stdin=b"1\n2\n3\n")
    assert "trying again" in done.err
    assert done.err.splitlines()[-1].startswith("sent 3 records in 2 requests")
    assert sorted(record["value"] for record in consumed(cli, topic)) == [1, 2, 3]


def test_without_an_answer_it_names_the_lines_that_are_not_confirmed(cli: Cli, topic: str) -> None:
    with lossy_proxy(cli.url, lambda number: number < 2) as url:
        done = cli("produce", topic, "--retries", "1", "--url", url, stdin=b"1\n2\n")
    assert done.code == 5
    assert "millrace: lines 1 to 2: not confirmed, may have been appended: cannot reach" in done.err


def test_one_signal_ends_the_wait_for_the_writer_of_a_fifo(cli: Cli, topic: str) -> None:
    os.mkfifo(cli.folder / "fifo")
    with cli.started("produce", topic, "fifo") as producer:
        wait_until(lambda: is_waiting_with_handlers(producer.pid))
        producer.send_signal(signal.SIGINT)
        assert producer.wait() == 130


def test_input_that_cannot_be_read_is_an_error(cli: Cli, topic: str) -> None:
    done = cli("produce", topic, ".")
    assert (done.code, done.err) == (1, "millrace: cannot read .: it is a directory\n")
    done = cli.shell(f"{MILLRACE} produce {topic} <&-")
    assert (done.code, done.err) == (1, "millrace: standard input is closed; name a file\n")


def test_an_error_ends_it_while_its_input_is_quiet(cli: Cli, topic: str) -> None:
    with cli.started("produce", topic) as producer:
        feed(producer, b"no json\n")
        assert producer.wait() == 4
