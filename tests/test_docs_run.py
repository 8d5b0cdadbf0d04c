"""Every command of the README and the docs runs as written and prints the output shown below it.

`MILLRACE_UPDATE_DOCS=1` replaces outputs that differ in the files.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx2
import pytest

from app.settings import Settings
from tests.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent
DEADLINE_S = 60

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_WAITS = re.compile(r"max_wait_ms=[1-9]\d{3}|--follow|millrace listen")
_VARIABLE = [
    (re.compile(r"\b179\d{10}\b"), "<now>"),
    (re.compile(r"\b1[89]\d{11}\b"), "<now>"),
    (re.compile(r'("request_id":)"[^"]+"'), r'\1"<id>"'),
    (re.compile(r'("(?:expires|last_used)_at_ms":)\d+'), r"\1<now>"),
    (re.compile(r'("lag_ms":)\d+'), r"\1<age>"),
    (re.compile(r'("next_cursor":)"[^"]+"'), r'\1"<cursor>"'),
    (re.compile(r"cursor=[\w-]+"), "cursor=<cursor>"),
    (re.compile(r"^date: .*$", re.MULTILINE | re.IGNORECASE), "date: <now>"),
    (re.compile(r"^x-request-id: .*$", re.MULTILINE | re.IGNORECASE), "x-request-id: <id>"),
    (re.compile(r"[\d,.]+ records/s"), "<rate> records/s"),
    (re.compile(r"\b2\d{3}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?"), "<time>"),
]

_REQUESTS = re.compile(r"in \d+ requests, ")


class Command(NamedTuple):
    """A command of a document and the output shown below it."""

    line: str
    output: str


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of the console blocks in order."""
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            while line.endswith("\\"):
                more, _, output = output.partition("\n")
                line += f"\n{more}"
            yield Command(line, output)


def normalized(text: str, line: str) -> str:
    """Return the output of a command line without the parts that differ from run to run."""
    for pattern, instead in _VARIABLE:
        text = pattern.sub(instead, text)
    if "|" in line:  # how a pipe divides the lines depends on how fast they arrive
        text = _REQUESTS.sub("in <n> requests, ", text)
    return text.strip()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def listener() -> int:
    """The port of `millrace listen`."""
    return free_port()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The port of a server on an empty SQLite file, started as `make run` starts it; it may post to this machine."""
    port = free_port()
    environment = os.environ | {
        "MILLRACE_DATABASE_URL": f"sqlite:///{tmp_path / 'millrace.db'}",
        "MILLRACE_BALLAST_BYTES": "0",
        "MILLRACE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    command = [str(BIN / "millrace"), "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "ready" in process.stdout.readline()
        yield port
    finally:
        process.terminate()
        process.communicate()


def run(line: str, port: int, listener: int) -> subprocess.Popen[str]:
    """Start a command of a document against the server, without colours and progress bars."""
    line = line.replace(":8400", f":{port}").replace(":8401", f":{listener}").replace(".venv/bin/", f"{BIN}/")
    line = line.replace("millrace listen", f"millrace listen --port {listener}")
    line = re.sub(r"\bcurl\b(?!\.)", "curl -sS", line)
    environment = os.environ | {"MILLRACE_URL": f"http://127.0.0.1:{port}", "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.Popen(
        ["bash", "-c", line], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def has_ended(process: subprocess.Popen[str]) -> bool:
    """Give the process 20 ms, and return whether it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.02)
    return process.returncode is not None


def until_listening(listener: int, process: subprocess.Popen[str]) -> None:
    """Return once a receiver listens, or the process has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while not has_ended(process):
        assert time.monotonic() < deadline, "the command does not listen"
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", listener)) == 0:
                return


def until_waiting(port: int, process: subprocess.Popen[str]) -> None:
    """Return once the server has a waiting read, or the process has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while not has_ended(process):
        assert time.monotonic() < deadline, "the command does not wait"
        metrics = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
        if re.search(r"^millrace_waiting_reads [1-9]", metrics, re.MULTILINE):
            return


def updated(text: str, results: list[tuple[Command, str]]) -> str:
    """Return a document with the new outputs of its commands, where they differ."""
    at = 0
    for command in commands(text):
        printed = next(output for known, output in results if known is command or known == command)
        results = [entry for entry in results if entry != (command, printed)] if printed else results
        old = f"$ {command.line}\n{command.output}"
        shown = printed if printed.endswith("\n") or not printed else f"{printed}\n"
        new = (
            old
            if normalized(printed, command.line) == normalized(command.output, command.line)
            else f"$ {command.line}\n{shown}"
        )
        at = text.index(old, at)
        text = text[:at] + new + text[at + len(old) :]
        at += len(new)
    return text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_of_a_document_prints_the_output_below_it(path: Path, server: int, listener: int) -> None:
    text = path.read_text()
    waiting: tuple[Command, subprocess.Popen[str]] | None = None
    results: list[tuple[Command, str]] = []
    for command in commands(text):
        process = run(command.line, server, listener)
        if _WAITS.search(command.line):
            if "millrace listen" in command.line:
                until_listening(listener, process)
            else:
                until_waiting(server, process)
            waiting = (command, process)
            continue
        results.append((command, process.communicate(timeout=DEADLINE_S)[0]))
        if waiting is not None:
            results.append((waiting[0], waiting[1].communicate(timeout=DEADLINE_S)[0]))
            waiting = None
    results = [
        (command, printed.replace(f":{server}", ":8400").replace(f":{listener}", ":8401"))
        for command, printed in results
    ]
    if os.environ.get("MILLRACE_UPDATE_DOCS"):
        path.write_text(updated(text, results))
        return
    for command, printed in results:
        assert normalized(printed, command.line) == normalized(command.output, command.line), command.line


def test_the_settings_table_of_the_readme_has_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `MILLRACE_{name.upper()}` |" in readme
        assert str(field.description) in readme
