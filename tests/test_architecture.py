"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "app").rglob("*.py"))
MAX_LINES = 400
NAMELESS = {"utils.py", "helpers.py", "common.py", "misc.py", "base.py"}
EMPTY_SUFFIXES = ("Manager", "Helper", "Service", "Impl", "Base")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_a_module_is_named_after_what_it_holds() -> None:
    assert [name_of(path) for path in MODULES if path.name in NAMELESS] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_class_is_named_after_what_it_is(path: Path) -> None:
    classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]

    assert [name for name in classes if name.endswith(EMPTY_SUFFIXES) or name.startswith("Abstract")] == []


def test_only_the_dialect_knows_which_database_it_is() -> None:
    found = [name_of(path) for path in MODULES if ".dialect.name ==" in path.read_text()]

    assert found == []
