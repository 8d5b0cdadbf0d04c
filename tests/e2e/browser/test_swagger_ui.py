"""Swagger UI in a real browser; Chromium is needed, else the tests are skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.browser import chromium
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = chromium.REQUIRED

SHOWN = """new Promise((resolve, reject) => {
  const late = setTimeout(() => reject(new Error("not shown: " + document.body.innerText.slice(0, 400))), 50000);
  const look = () => {
    const found = (%s);
    if (found) { clearTimeout(late); resolve(found instanceof Node || found); } else setTimeout(look, 20);
  };
  look();
})"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with ServerProcess(f"sqlite:///{folder / 'millrace.db'}", folder) as process:
        yield process


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("browser")) as controlled:
        yield controlled


def shown(page: chromium.Page, expression: str) -> Any:
    """Return the value of an expression as soon as it is true."""
    return page.run(SHOWN % expression)


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/jsonl"])
def test_the_example_of_a_body_of_lines_has_one_record_on_each_line(
    server: ServerProcess, page: chromium.Page, media_type: str
) -> None:
    page.open(f"{server.url}/docs#/records/produce")
    shown(page, "document.querySelector('#operations-records-produce select.content-type')")
    page.run(f"""(() => {{
        const select = document.querySelector('#operations-records-produce select.content-type');
        const set = Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, 'value').set;
        set.call(select, '{media_type}');
        select.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")

    example = "document.querySelector('#operations-records-produce textarea.body-param__text')?.value"
    text = shown(page, f"({example} ?? '').includes('lamp') && {example}")

    assert text.splitlines() == [
        '{"key":"alice","value":{"item":"book"}}',
        '{"key":"bob","value":{"item":"lamp"}}',
    ]


def test_an_operation_lists_its_problems_without_their_schema(server: ServerProcess, page: chromium.Page) -> None:
    page.open(f"{server.url}/docs#/records/fetch_partition")
    shown(page, "document.querySelector('#operations-records-fetch_partition .responses-table')")
    rows = page.run("""[...document.querySelectorAll('#operations-records-fetch_partition tr.response')]
        .map((row) => [row.dataset.code, row.querySelectorAll('.model-example').length])""")

    assert ["200", 1] in rows
    assert ["416", 0] in rows
    assert [row for row in rows if row[0][0] != "2" and row[1]] == []
    assert "OFFSET_OUT_OF_RANGE" in page.run("document.body.innerText")


def test_the_page_has_a_filter_box_and_all_operations(server: ServerProcess, page: chromium.Page) -> None:
    page.open(f"{server.url}/docs")

    assert shown(
        page, "document.querySelectorAll('.opblock').length > 40 && document.querySelectorAll('.opblock').length"
    )
    assert page.run("document.querySelectorAll('input.operation-filter-input').length") == 1


def test_the_page_is_dark_where_the_system_is(server: ServerProcess, page: chromium.Page) -> None:
    found = {}
    for scheme in ("light", "dark"):
        page.open(f"{server.url}/docs", scheme)
        shown(page, "document.querySelector('.opblock')")
        color = page.run("getComputedStyle(document.querySelector('.swagger-ui .info .title')).color")
        found[scheme] = sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(", ")))

    assert found["light"] < 384 < found["dark"]
