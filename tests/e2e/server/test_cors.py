"""CORS over a socket: answers that the server writes past the ASGI stack have the CORS headers too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

PAGE = {"Origin": "https://app.example"}


def test_every_answer_allows_the_configured_origin(tmp_path: Path) -> None:
    settings = {"cors_origins": "https://app.example"}
    with ServerProcess(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path, settings=settings) as node:
        records = f"{node.url}/v1/topics/orders/records"
        produced = httpx2.post(records, json={"value": 1}, headers=PAGE)
        answers = [
            produced,
            httpx2.get(records, headers=PAGE),
            httpx2.get(f"{node.url}/healthz", headers=PAGE),
            httpx2.get(f"{node.url}/v1/topics/none", headers=PAGE),
        ]
        refused = httpx2.post(records, json={"value": 1}, headers={"Origin": "https://evil.example"})
        asked = {**PAGE, "Access-Control-Request-Method": "POST"}
        preflight = httpx2.options(records, headers=asked)
        elsewhere = httpx2.options(records, headers={**asked, "Host": "evil.example"})

    assert produced.status_code == 201
    assert [answer.headers["access-control-allow-origin"] for answer in answers] == ["https://app.example"] * 4
    assert refused.status_code == 403
    assert (preflight.status_code, preflight.headers["cache-control"]) == (200, "no-store")
    assert elsewhere.status_code == 421
