"""Clients that code generators make of the OpenAPI document compile, and work against a server.

`make clients` runs these tests: they download the generators, and need Go and Node. Everything that they download or
generate is in temporary folders.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.checkout import ROOT
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = ROOT / "tests" / "clients"
OAPI_CODEGEN = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2"
OAPI_RUNTIME = "github.com/oapi-codegen/runtime@v1.9.0"
NODE_PACKAGES = (
    "openapi-typescript@7.13.0",
    "openapi-fetch@0.17.0",
    "@hey-api/openapi-ts@0.95.0",
    "typescript@5.9.3",
    "tsx@4.23.15",
    "@types/node@20.19.43",
)
PYTHON_PACKAGE = "openapi-python-client==0.29.1"
BODIES_WITHOUT_PYTHON = {"application/x-ndjson", "application/jsonl", "text/plain"}
"""Request bodies that openapi-python-client leaves out; JSON and bytes are there."""
DEADLINE_S = 600

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with ServerProcess(f"sqlite:///{folder / 'millrace.db'}", folder) as process:
        yield process


@pytest.fixture
def folder(server: ServerProcess, tmp_path: Path) -> Path:
    """A folder with the OpenAPI document of the server."""
    (tmp_path / "openapi.json").write_bytes(httpx2.get(f"{server.url}/openapi.json").content)
    return tmp_path


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command that must succeed, and return what it prints."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


def printed(topic: str) -> list[str]:
    """Return the lines that each program prints."""
    return [
        f"created {topic} with 2 partitions",
        "appended at 0 0",
        "appended at 0 1",
        "fetched 0 alice book",
        "fetched 1 bob lamp",
        f"polled {topic} 0 book",
        f"polled {topic} 1 lamp",
        "refused UNKNOWN_TOPIC_OR_PARTITION 404",
    ]


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go (apt install golang)")
def test_a_go_client_of_oapi_codegen(server: ServerProcess, folder: Path) -> None:
    shutil.copy(PROGRAMS / "go" / "main.go", folder)
    (folder / "millrace").mkdir()
    run("go", "mod", "init", "example.org/clients", folder=folder)
    options = ("-generate", "types,client", "-package", "millrace", "-o", "millrace/client.go")
    run("go", "run", OAPI_CODEGEN, *options, "openapi.json", folder=folder)
    run("go", "get", OAPI_RUNTIME, folder=folder)
    run("go", "vet", "./...", folder=folder)

    assert run("go", "run", ".", server.url, folder=folder).splitlines() == printed("orders-go")


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node 20 or newer with npm (apt install nodejs npm)")
def test_typescript_clients_of_openapi_typescript_and_hey_api(server: ServerProcess, folder: Path) -> None:
    for path in (PROGRAMS / "typescript").iterdir():
        shutil.copy(path, folder)
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", *NODE_PACKAGES, folder=folder)
    tools = folder / "node_modules" / ".bin"
    run(tools / "openapi-typescript", "openapi.json", "-o", "schema.ts", folder=folder)
    run(tools / "openapi-ts", "-i", "openapi.json", "-o", "hey", folder=folder)
    run(tools / "tsc", folder=folder)

    assert run(tools / "tsx", "openapi-fetch.ts", server.url, folder=folder).splitlines() == printed("orders-fetch")
    assert run(tools / "tsx", "hey-api.ts", server.url, folder=folder).splitlines() == printed("orders-hey")


def test_a_python_client_of_openapi_python_client(server: ServerProcess, folder: Path) -> None:
    run(sys.executable, "-m", "venv", "venv", folder=folder)
    tools = folder / "venv" / "bin"
    run(tools / "python", "-m", "pip", "install", "--quiet", PYTHON_PACKAGE, folder=folder)
    options = ("--path", "openapi.json", "--output-path", "generated", "--meta", "none")
    (folder / "options.yaml").write_text("post_hooks: []\npackage_name_override: millrace_client\n")
    report = run(tools / "openapi-python-client", "generate", *options, "--config", "options.yaml", folder=folder)
    program = PROGRAMS / "python" / "generated_client.py"
    (folder / "generated").rename(folder / "millrace_client")

    assert run(tools / "python", program, server.url, folder=folder, PYTHONPATH=str(folder)).splitlines() == printed(
        "orders-python"
    )
    assert set(re.findall(r"Unsupported content type (\S+)", report)) == BODIES_WITHOUT_PYTHON
    assert report.count("WARNING") == report.count("Unsupported content type")
