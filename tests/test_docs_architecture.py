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
_NAMES = re.compile(r"([A-Z]\w*[a-z]\w*)(?:\.([a-z]\w+))?|(\w+)\(\)|(no_\w+)")
_DEFINITION = re.compile(r"^ *(?:class|def|async def) (\w+)|^(\w+)(?:: TypeAlias)? = ", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_in(code: str) -> set[str]:
    """Return the class, method, function or invariant that a code span names, such as `Storage.write` or `find()`."""
    found = _NAMES.fullmatch(code)
    return set() if found is None else {name for name in found.groups() if name}


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


def test_every_class_function_and_invariant_that_the_architecture_names_exists() -> None:
    modules = [*(ROOT / "app").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    found = _DEFINITION.findall("\n".join(module.read_text() for module in modules))
    defined = {name for names in found for name in names}
    named = {name for code in _CODE.findall((ROOT / "docs" / "architecture.md").read_text()) for name in names_in(code)}

    assert len(named) >= 10
    assert sorted(named - defined) == []
