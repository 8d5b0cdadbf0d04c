"""Run the tests on each supported Python and PostgreSQL that is installed: `make test-all`.

Each Python has its own environment, `.venv-3.13`. The tests of the database run again for each PostgreSQL, with the
Python of this process. At the end, a table says what was run and what is not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.checkout import ROOT
from tests.postgres import find_installations

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
POSTGRES_VERSIONS = (14, 15, 16, 17, 18)
PYTEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile")
_FOLDERS = (".pyenv/versions/{}.*/bin/python", ".local/share/uv/python/cpython-{}.*/bin/python3")
_CHECK = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))"


def find_python(version: str) -> str | None:
    """Return a Python of a version that can create an environment, or None."""
    of_tools = [str(path) for pattern in _FOLDERS for path in Path.home().glob(pattern.format(version))]
    candidates = [shutil.which(f"python{version}"), *sorted(of_tools, reverse=True)]
    return next((each for each in candidates if each is not None and _prints(each, version)), None)


def _prints(python: str, version: str) -> bool:
    done = subprocess.run([python, "-c", _CHECK], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def run_on_python(version: str) -> str:
    """Run all tests on a Python; return how that ended."""
    python = find_python(version)
    if python is None:
        return "not installed"
    folder = f".venv-{version}"
    if subprocess.run(["make", "install-dev", f"VENV={folder}", f"PYTHON={python}"], cwd=ROOT, check=False).returncode:
        return "FAILED to install"
    return _run([f"{folder}/bin/python", *PYTEST], {})


def run_on_postgres(version: int) -> str:
    """Run the tests of the database on a PostgreSQL; return how that ended."""
    if version not in find_installations():
        return "not installed"
    return _run(
        [sys.executable, *PYTEST, "-m", "postgres and not slow"], {"MILLRACE_TEST_POSTGRES_VERSION": str(version)}
    )


def _run(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False)
    return "FAILED" if done.returncode else "passed"


def main() -> None:
    """Run everything, print the table, and exit with 1 if anything failed."""
    results = {f"Python {version}": run_on_python(version) for version in PYTHONS}
    results |= {f"PostgreSQL {version}": run_on_postgres(version) for version in POSTGRES_VERSIONS}
    for name, result in results.items():
        print(f"{name:16} {result}")
    sys.exit(any("FAILED" in result for result in results.values()))


if __name__ == "__main__":
    main()
