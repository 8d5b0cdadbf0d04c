"""The documents name and link only files, tests and sections that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOR_CONTRIBUTORS = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?:app|bench|docs|examples|migrations|openapi|tests)(?:/[\w.-]+)*/?|\w+\.(?:toml|lock|md)")
_BOLD_PATH = re.compile(r"<b>(app/[\w./]+)</b>")
_LINK = re.compile(r"\]\(([^)#\s]*)(#[\w-]*)?\)")
_INVARIANT = re.compile(r"`(no_\w+)`")


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", FOR_CONTRIBUTORS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    named = [code for code in _CODE.findall(text) if _PATH.fullmatch(code)] + _BOLD_PATH.findall(text)

    assert len(named) >= 15
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_a_file_and_a_section(document: Path) -> None:
    links = [link for link in _LINK.findall(document.read_text()) if "://" not in link[0]]

    for target, anchor in links:
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), anchor


def test_every_invariant_that_the_architecture_names_is_tested() -> None:
    machine = (ROOT / "tests" / "domain" / "groups" / "test_group_machine.py").read_text()
    named = _INVARIANT.findall((ROOT / "docs" / "architecture.md").read_text())

    assert named
    assert [name for name in named if f"def {name}(" not in machine] == []
