"""`millrace openapi`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.processes import Cli


def test_openapi_prints_the_document_and_leaves_no_file(alone: Cli) -> None:
    document = json.loads(alone.ok("openapi").out)
    assert document["info"]["title"] == "Millrace"
    assert "/v1/topics/{topic}/records" in document["paths"]
    assert list(alone.folder.iterdir()) == []
