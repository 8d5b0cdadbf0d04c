"""A node: a process that serves the database."""

from __future__ import annotations

import msgspec


class NodeDetails(msgspec.Struct, frozen=True):
    """What a node says of itself.

    Attributes:
        host: Name of the machine.
        address: Address and port as configured.
        version: Version of the program.
        tasks: Names of the background tasks that it runs.
        tasks_down: Those of them that fail or have stopped.
    """

    host: str
    address: str
    version: str
    tasks: tuple[str, ...] = ()
    tasks_down: tuple[str, ...] = ()


class Node(msgspec.Struct, frozen=True):
    """A node as the database, or the node itself, knows it.

    Attributes:
        age_ms: Time since it was last seen.
        webhooks: Number of webhooks that it works.
    """

    node_id: str
    details: NodeDetails
    started_at_ms: int
    age_ms: int
    webhooks: int
