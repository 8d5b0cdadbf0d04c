"""`millrace health`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.cli.processes import PROGRAM, Cli, Serving, environment

if TYPE_CHECKING:
    from pathlib import Path


def test_the_exit_code_says_whether_a_server_is_ready(cli: Cli, alone: Cli) -> None:
    assert (cli("health").code, cli("health").out) == (0, b"ready\n")
    done = alone("health", "--timeout", "1")
    assert done.code == 1
    assert done.err.startswith(f"millrace: cannot reach {alone.url}: ")
    assert "start a server with millrace serve" in done.err


def test_the_default_url_has_the_default_port_of_serve(server: Serving, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = subprocess.run([*PROGRAM, "health"], env=environment(MILLRACE_PORT=port), cwd=tmp_path, check=False)
    assert done.returncode == 0
