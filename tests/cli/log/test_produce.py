"""`millrace produce`: what arrives, in which order, how often, and what is told when it does not."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import termios
import threading
import time
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.running import MILLRACE, Cli, await_line, free_port, serving

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


def quakes(count: int) -> bytes:
    return b"".join(
        b'{"network":"n%d","time":%d,"magnitude":%d.50}\n' % (number % 7, 1_517_363_399_650 + number, number)
        for number in range(count)
    )


def feed(producer: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to its input, which stays open."""
    assert producer.stdin is not None
    producer.stdin.write(data)
    producer.stdin.flush()


def await_read(producer: subprocess.Popen[bytes]) -> None:
    """Wait until it has read all of its input that is there."""
    assert producer.stdin is not None
    unread = array("i", [1])
    while unread[0]:
        fcntl.ioctl(producer.stdin, termios.FIONREAD, unread)


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


def test_several_connections_spread_what_has_no_key(cli: Cli, topic: str) -> None:
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


def test_a_refusal_names_the_line_and_nothing_of_its_request_is_written(cli: Cli, topic: str) -> None:
    lines = quakes(12) + b'\n{"no":"network"}\n' + quakes(3)
    done = cli("produce", topic, "--key", "/network", "--batch", "5", stdin=lines)
    assert done.code == 4
    said, summary = done.err.splitlines()
    assert said == (
        "millrace: line 14: key_from points at nothing in this value (INVALID_REQUEST); "
        "nothing of lines 11 to 16 is sent"
    )
    assert summary.startswith("sent 10 records in 2 requests")
    assert len(consumed(cli, topic)) == 10


def test_a_line_that_is_no_json_is_named(cli: Cli, topic: str) -> None:
    done = cli("produce", topic, stdin=b'1\n\n{"a":\n3\n')
    assert done.code == 4
    assert done.err.startswith("millrace: line 3: the body is not valid JSON")


def test_pointers_need_values_and_the_file_must_be_there(cli: Cli, topic: str) -> None:
    assert cli("produce", topic, "--format", "text", "--key", "/a").code == 2
    done = cli("produce", topic, "nowhere.ndjson")
    assert (done.code, done.err) == (1, "millrace: cannot read nowhere.ndjson: No such file or directory\n")


def test_lines_of_a_pipe_that_stays_open_are_sent_when_it_is_quiet(cli: Cli, topic: str) -> None:
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


def test_lines_of_a_pipe_that_is_never_quiet_are_sent_before_a_request_is_full(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with cli.started("produce", topic) as producer, cli.started("consume", topic, "-f", "-n", "1") as consumer:
        assert producer.stdin is not None
        lines = 0
        while consumer.poll() is None:
            time.sleep(0.01)
            lines += 1
            producer.stdin.write(b"%d\n" % lines)
            producer.stdin.flush()
        producer.stdin.close()
        producer.wait()
    assert lines < 500


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sends_what_was_read(cli: Cli, topic: str, signal_number: int) -> None:
    with cli.started("produce", topic, "--linger-ms", "60000") as producer:
        feed(producer, b"1\n2\n3")
        await_read(producer)
        producer.send_signal(signal_number)
        assert producer.wait() == 130
    assert [record["value"] for record in consumed(cli, topic)] == [1, 2]


def test_a_second_signal_ends_without_what_cannot_be_sent(tmp_path: Path) -> None:
    cli = Cli(tmp_path, f"http://127.0.0.1:{free_port()}")
    with cli.started("produce", "t", "--retries", "100") as producer:
        feed(producer, b"1\n")
        await_line(producer, containing="Connection refused; trying again")
        producer.send_signal(signal.SIGINT)
        time.sleep(0.3)
        producer.send_signal(signal.SIGINT)
        assert producer.wait() == 130
        await_line(producer, containing="ended before all was confirmed")


def test_a_server_that_comes_later_gets_everything_once(tmp_path: Path) -> None:
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


def test_a_lost_answer_doubles_nothing(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    with answers_lost(cli.url, times=2) as url:
        done = cli.ok("produce", topic, "--batch", "2", "--url", url, stdin=b"1\n2\n3\n")
    assert "trying again" in done.err
    assert done.err.splitlines()[-1].startswith("sent 3 records in 2 requests")
    assert sorted(record["value"] for record in consumed(cli, topic)) == [1, 2, 3]


def test_without_an_answer_it_says_what_is_not_confirmed(cli: Cli, topic: str) -> None:
    with answers_lost(cli.url, times=2) as url:
        done = cli("produce", topic, "--retries", "1", "--url", url, stdin=b"1\n2\n")
    assert done.code == 5
    assert "millrace: lines 1 to 2: not confirmed, and perhaps appended: cannot reach" in done.err


@contextmanager
def answers_lost(url: str, *, times: int) -> Iterator[str]:
    """A way to the server on which its first answers are lost: it appends, and nobody hears of it."""
    server = (url.split("/")[2].split(":", maxsplit=1)[0], int(url.rpartition(":")[2]))
    with socket.create_server(("127.0.0.1", 0)) as door:

        def carry() -> None:
            for number in range(times + 100):
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                with client, socket.create_connection(server) as upstream:
                    upstream.sendall(_message(client))
                    answer = _message(upstream)
                    if number >= times:
                        client.sendall(answer.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()


def _message(connection: socket.socket) -> bytes:
    """Read a request or an answer with a Content-Length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def test_a_fifo_without_a_writer_is_given_up_by_one_signal(cli: Cli, topic: str) -> None:
    os.mkfifo(cli.folder / "fifo")
    with cli.started("produce", topic, "fifo") as producer:
        time.sleep(1)  # until it waits for a writer; before, a signal ends it anyway
        producer.send_signal(signal.SIGINT)
        assert producer.wait() == 130


def test_what_cannot_be_read_is_told(cli: Cli, topic: str) -> None:
    done = cli("produce", topic, ".")
    assert (done.code, done.err) == (1, "millrace: cannot read .: it is a directory\n")
    done = cli.shell(f"{MILLRACE} produce {topic} <&-")
    assert (done.code, done.err) == (1, "millrace: standard input is closed; name a file\n")


def test_a_refusal_ends_it_though_no_line_comes(cli: Cli, topic: str) -> None:
    with cli.started("produce", topic) as producer:
        feed(producer, b"no json\n")
        assert producer.wait() == 4
