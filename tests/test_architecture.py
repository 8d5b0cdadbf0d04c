"""Rules for the layout of the code and the tests that no linter checks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


MODULES = sorted((ROOT / "app").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "bench").rglob("*.py"))
TEXTS = [
    path
    for pattern in ("*", "app/**/*.py", "bench/**/*", "docs/**/*", "examples/*", "migrations/**/*.py", "tests/**/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in {".py", ".md", ".toml", ".yaml", ".sh", ""} and path.is_file()
]
LAYERS = {"api", "broker", "cli", "domain", "errors", "main", "server", "storage", "tasks"}
MAX_LINES = 400
MAX_MODULES = 14
IMPORT_OF_TEST = re.compile(r"^from tests\.\S*\btest_\w+ import", re.MULTILINE)
VAGUE_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py", "base.py"}
VAGUE_SUFFIXES = ("Manager", "Helper", "Service", "Impl", "Base")
SLEEP = re.compile(r"\b(asyncio|time)\.sleep\((?!0\))")
SLEEPERS = {
    "tests/waiting.py",
    "tests/postgres.py",
    "tests/storage/db/postgres/pgbouncer.py",
    "tests/e2e/support/consumer_process.py",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes_of(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES + BENCHMARKS, ids=name_of)
def test_a_module_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_a_folder_has_at_most_14_modules() -> None:
    modules = Counter(name_of(path.parent) for path in MODULES + TESTS + BENCHMARKS if path.name != "__init__.py")

    assert {folder: number for folder, number in modules.items() if number > MAX_MODULES} == {}


def test_no_module_has_a_vague_name() -> None:
    assert [name_of(path) for path in MODULES + TESTS + BENCHMARKS if path.name in VAGUE_NAMES] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_class_has_a_vague_name(path: Path) -> None:
    classes = [node.name for node in nodes_of(path) if isinstance(node, ast.ClassDef)]

    assert [name for name in classes if name.endswith(VAGUE_SUFFIXES) or name.startswith("Abstract")] == []


def test_only_the_dialect_asks_which_database_it_is() -> None:
    assert [name_of(path) for path in MODULES if ".dialect.name ==" in path.read_text()] == []


def test_a_module_is_imported_under_its_own_name() -> None:
    aliases = [
        f"{name_of(path)}: {node.module}.{alias.name} as {alias.asname}"
        for path in MODULES + TESTS + BENCHMARKS
        for node in nodes_of(path)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
        if alias.asname and (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
    ]

    assert aliases == []


def test_rows_of_a_query_are_unpacked_into_names() -> None:
    found = [name_of(path) for path in MODULES if re.search(r"\brow\[[1-9]", path.read_text())]

    assert found == []


def test_the_folders_of_the_tests_mirror_those_of_the_code() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS}
    of_layers = {folder for folder in folders if folder.parts and folder.parts[0] in LAYERS}

    assert {path.name for path in (ROOT / "app").iterdir() if path.is_dir() and path.name[0] != "_"} == LAYERS
    assert [folder.as_posix() for folder in of_layers if not (ROOT / "app" / folder).is_dir()] == []
    assert {folder.parts[0] for folder in folders - of_layers if folder.parts} == {"clients", "e2e", "fuzz", "history"}


def test_no_test_imports_from_a_module_of_tests() -> None:
    found = [name_of(path) for path in TESTS if IMPORT_OF_TEST.search(path.read_text())]

    assert found == []


def test_tests_wait_for_conditions_and_do_not_sleep() -> None:
    found = [name_of(path) for path in TESTS if SLEEP.search(path.read_text())]

    assert set(found) <= SLEEPERS


def test_no_text_refers_to_a_document_outside_the_repository() -> None:
    documents = {path.name for path in TEXTS if path.suffix == ".md"}
    found = {
        f"{name_of(path)}: {name}"
        for path in TEXTS
        for name in re.findall(r"\b([\w-]+\.md)\b", path.read_text())
        if name not in documents
    }

    assert found == set()
