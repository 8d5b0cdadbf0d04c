"""The example clients in Python and Node produce, consume, work and tail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.checkout import ROOT
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODE = shutil.which("node")
VALUES = [str(number) for number in range(150)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path) as node:
        yield node


@pytest.mark.parametrize(
    "program",
    [
        [sys.executable, str(ROOT / "examples" / "client.py")],
        pytest.param(
            [NODE or "", str(ROOT / "examples" / "client.mjs")],
            marks=pytest.mark.skipif(NODE is None, reason="needs Node 18 (apt install nodejs)"),
        ),
    ],
    ids=["python", "node"],
)
def test_a_client_produces_consumes_works_and_tails(node: ServerProcess, program: list[str]) -> None:
    def run(*words: str, stdin: str = "") -> list[str]:
        environment = os.environ | {"MILLRACE_URL": node.url}
        done = subprocess.run(
            [*program, *words], input=stdin, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.split(), key=int)

    assert run("produce", "orders", stdin="\n".join(VALUES) + "\n") == []
    assert run("consume", "orders", "billing", "150") == VALUES
    assert run("work", "jobs", "orders", "150") == VALUES
    assert run("tail", "orders", "150") == VALUES
