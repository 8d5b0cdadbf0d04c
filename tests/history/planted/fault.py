"""A planted fault: a patch of the server that its scenario must reveal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from tests.history.planted.cluster import Cluster

Scenario = Callable[[Cluster], Awaitable[None]]


class Fault(NamedTuple):
    """A fault, and what must be found.

    Attributes:
        name: What the server does wrong.
        plant: Patches the code before the nodes start.
        scenario: The run that must reveal it.
        rule: The anomaly that must be among those found.
        shared: Whether it takes two nodes on one PostgreSQL.
    """

    name: str
    plant: Callable[[pytest.MonkeyPatch, Cluster], None]
    scenario: Scenario
    rule: str
    shared: bool = False


def replacing(owner: Any, name: str, replacement: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch, Cluster], None]:
    """Return a plant that replaces a function by `replacement(original, *args, **kwargs)`."""

    def plant(monkeypatch: pytest.MonkeyPatch, _: Cluster) -> None:
        original = getattr(owner, name)

        def patched(*args: Any, **kwargs: Any) -> Any:
            return replacement(original, *args, **kwargs)

        monkeypatch.setattr(owner, name, patched)

    return plant
