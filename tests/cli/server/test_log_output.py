"""The formats of the log."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.checkout import ROOT

PROGRAM = """
import logging, sys, threading, warnings
from app.cli.server.log_output import log_to_stderr
log_to_stderr("info", sys.argv[1], access_log=False)
log = logging.getLogger("app.example")
log.debug("hidden")
log.info("first\\nsecond")
logging.getLogger("uvicorn.error").warning("from uvicorn")
logging.getLogger("sqlalchemy.engine").info("SELECT secret")
warnings.warn("old", DeprecationWarning)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
raise ValueError("the end")
"""


def log_of(log_format: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM, log_format],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()


def test_every_line_is_an_object_also_tracebacks_and_warnings() -> None:
    lines = [json.loads(line) for line in log_of("json")]

    assert [(line["level"], line["logger"], line["message"]) for line in lines if line["logger"] != "py.warnings"] == [
        ("info", "app.example", "first\nsecond"),
        ("warning", "uvicorn.error", "from uvicorn"),
        ("error", "app.example", "failed"),
        ("critical", "app.cli.server.log_output", "a thread failed"),
        ("critical", "app.cli.server.log_output", "the server failed"),
    ]
    assert [line["exception"].splitlines()[-1] for line in lines if "exception" in line] == [
        "ZeroDivisionError: division by zero",
        "IndexError: list index out of range",
        "ValueError: the end",
    ]
    assert any("DeprecationWarning: old" in line["message"] for line in lines if line["logger"] == "py.warnings")
    assert all(line["time"].endswith("+00:00") for line in lines)


@pytest.mark.parametrize("text", ["INFO app.example: first\\u000asecond", "WARNING uvicorn.error: from uvicorn"])
def test_a_record_of_the_text_log_begins_one_line(text: str) -> None:
    assert [line for line in log_of("text") if line.endswith(text)] != []
