"""The wheel in a separate environment, outside the checkout, as a user installs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from app import __version__
from tests.checkout import ROOT, tracked_files
from tests.e2e.support.api_calls import produce
from tests.e2e.support.server_process import ServerProcess

BUILD_SECONDS = 120


def run(*command: str | Path, directory: Path) -> str:
    """Run a program that must succeed, without variables that lead to the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MILLRACE_"))}
    result = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, which is built from the checkout, as `make dist` does."""
    directory = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT))
    run(sys.executable, *build, directory=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """An environment with the wheel; its dependencies come from the environment of the tests."""
    directory = wheel.parent
    environment = directory / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, directory=directory)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, directory=directory)
    # The folder is added to the path, not as a site directory: its .pth file would add the checkout.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", directory=directory).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def test_the_wheel_contains_the_code_the_guides_and_the_migrations_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    expected = {
        re.sub(r"^(docs|migrations)/", r"app/_\1/", path.relative_to(ROOT).as_posix())
        for path in tracked_files()
        if path.relative_to(ROOT).parts[0] in {"app", "docs", "migrations"} and path.name != ".gitkeep"
    }
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {"app", f"millrace-{__version__}.dist-info"}


@pytest.mark.anyio
async def test_the_wheel_serves_the_api_and_its_documentation(installed: Path, tmp_path: Path) -> None:
    node = ServerProcess(
        f"sqlite:///{tmp_path / 'millrace.db'}",
        tmp_path,
        program=[str(installed / "bin" / "millrace")],
        settings={"PYTHONPATH": "", "PYTHONSAFEPATH": "1"},
    )
    with node:
        async with node.client() as client:
            offsets = await produce(client, "orders", {"hello": "world"})
            page = await client.get("/v1/topics/orders/partitions/0/records")
            docs = await client.get("/docs")
            scripts = [word.split('"')[0] for word in docs.text.split('src="')[1:]]
            loaded = [await client.get(script) for script in scripts]
            problem_page = await client.get("/problems/unknown-topic-or-partition")
            document = await client.get("/openapi.json")
            guide = await client.get("/guides/streams")

    assert [one["offset"] for one in offsets] == [0]
    assert page.json()["records"][0]["value"] == {"hello": "world"}
    assert (docs.status_code, docs.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert loaded
    assert all(script.startswith("docs/") for script in scripts)
    assert {(answer.status_code, answer.headers["content-type"].split(";")[0]) for answer in loaded} == {
        (200, "text/javascript")
    }
    assert max(len(answer.content) for answer in loaded) > 100_000
    assert (problem_page.status_code, document.status_code, guide.status_code) == (200, 200, 200)
    assert "Traceback" not in node.log


def test_the_wheel_imports_nothing_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import app, app.main, sys; print(app.__file__); print(*sys.path, sep='\\n')"

    package, *path = run(installed / "bin" / "python", "-c", code, directory=tmp_path).splitlines()

    assert Path(package).is_relative_to(installed)
    assert str(ROOT) not in path


def test_the_wheel_prints_its_version_and_has_the_migrations(installed: Path, tmp_path: Path) -> None:
    program = str(installed / "bin" / "millrace")
    url = f"sqlite:///{tmp_path / 'new.db'}"

    version = run(program, "--version", directory=tmp_path)
    migrated = run(program, "migrate", "--database-url", url, directory=tmp_path)

    assert version.split()[:1] == ["millrace"]
    assert migrated.startswith("created the tables")


def test_the_source_distribution_has_what_a_build_needs_and_the_documents(wheel: Path) -> None:
    (built,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert built.name == f"millrace-{__version__}.tar.gz"
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "PKG-INFO"} <= names
    assert {"app/__init__.py", "docs/operations.md", "migrations/env.py", "openapi/openapi.json"} <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {"app", "deploy", "docs", "migrations", "openapi"}


@pytest.mark.skipif(shutil.which("pipx") is None, reason="pipx is not installed")
def test_pipx_runs_the_wheel(wheel: Path, tmp_path: Path) -> None:
    printed = run("pipx", "run", "--spec", wheel, "millrace", "--version", directory=tmp_path)

    assert printed == f"millrace {__version__}\n"
