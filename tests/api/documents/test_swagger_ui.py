"""Swagger UI: all files come from the package, under a strict content security policy."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api.documents.swagger_ui import docs_routes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
STATIC = ROOT / "app/api/documents/static"
FILES = {
    "/docs/swagger-ui-bundle.js": (STATIC / "swagger/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "/docs/swagger-ui.css": (STATIC / "swagger/swagger-ui.css", "text/css; charset=utf-8"),
    "/docs/init.js": (STATIC / "init.js", "text/javascript; charset=utf-8"),
    "/docs/page.css": (STATIC / "page.css", "text/css; charset=utf-8"),
    "/docs/favicon.svg": (STATIC / "favicon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of an application with only the docs."""
    app = FastAPI(docs_url=None, redoc_url=None)
    app.router.routes.extend(docs_routes())
    with TestClient(app) as each:
        yield each


def test_the_page_has_a_title_and_a_strict_policy(client: TestClient) -> None:
    response = client.get("/docs")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    assert "<title>Millrace API</title>" in response.text


def test_the_page_has_no_inline_code_and_no_other_hosts(client: TestClient) -> None:
    page = client.get("/docs").text

    assert re.findall(r"<script(?! src=\"docs/[a-z.-]+\"></script>)", page) == []
    assert re.search(r"<style|style=|\son[a-z]+=|//", page) is None


def test_every_file_the_page_names_is_served(client: TestClient) -> None:
    names = re.findall(r'(?:src|href)="(docs/[^"]+)"', client.get("/docs").text)

    assert sorted(f"/{name}" for name in names) == sorted(set(FILES) - {"/docs/page.css"})
    assert [client.get(name).status_code for name in names] == [200] * len(names)


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_compressed_if_the_client_accepts_gzip(client: TestClient, path: str) -> None:
    file, media_type = FILES[path]

    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    refused = client.get(path, headers={"Accept-Encoding": "gzip;q=0, br"})
    with client.stream("GET", path, headers={"Accept-Encoding": "br, gzip;q=0.8"}) as packed:
        raw = b"".join(packed.iter_raw())

    assert plain.content == refused.content == gzip.decompress(raw) == file.read_bytes()
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-length"] == str(len(raw))
    assert {each.headers["content-type"] for each in (plain, packed)} == {media_type}
    assert plain.headers["vary"] == "Accept-Encoding"
    assert plain.headers["cache-control"] == "public, max-age=3600"
    assert plain.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_304(client: TestClient) -> None:
    etag = client.get("/docs/init.js").headers["etag"]

    again = client.get("/docs/init.js", headers={"If-None-Match": f'"other", {etag}'})

    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == etag


def test_other_files_are_404(client: TestClient) -> None:
    paths = ["/docs/README.md", "/docs/LICENSE", "/docs/docs.html", "/docs/..%2fdocs.py", "/docs/x"]

    assert [client.get(path).status_code for path in paths] == [404] * len(paths)


def test_the_openapi_document_does_not_contain_the_docs(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


def test_swagger_ui_is_the_release_in_its_readme() -> None:
    readme = (STATIC / "swagger/README.md").read_text()
    sums = dict(re.findall(r"^\| `(.+)` \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    files = [path for path in (STATIC / "swagger").iterdir() if path.name != "README.md"]

    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert "Apache License" in (STATIC / "swagger/LICENSE").read_text()


def test_swagger_ui_loads_the_openapi_document_and_no_other_server() -> None:
    script = (STATIC / "init.js").read_text()

    assert 'url: "openapi.json"' in script
    assert "tryItOutEnabled: true" in script
    assert "validatorUrl: null" in script
    assert "filter: true" in script
    assert "plugins: [showLines, showProblemsOnce]" in script


def test_the_favicon_is_small_and_well_formed() -> None:
    icon = (STATIC / "favicon.svg").read_bytes()

    assert len(icon) <= 1024
    assert ET.fromstring(icon).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - a file of this package


def test_files_are_read_at_the_first_request() -> None:
    code = (
        "import sys; opened = []; sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else 0);"
        "import app.api.documents.swagger_ui as docs; docs.docs_routes();"
        "sys.exit(any('/static/' in name for name in opened))"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
