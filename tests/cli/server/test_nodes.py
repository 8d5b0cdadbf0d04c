"""`millrace nodes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from app import __version__

if TYPE_CHECKING:
    from tests.cli.processes import Cli


def test_nodes_prints_each_node_as_a_line(cli: Cli) -> None:
    (line,) = cli("nodes").out.splitlines()

    node = json.loads(line)
    assert (node["version"], node["alive"], node["tasks_down"]) == (__version__, True, [])
