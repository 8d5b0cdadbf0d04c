"""The nodes that serve the database, and what each of them does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from app.broker.webhooks.dispatcher import Dispatcher
from app.domain.node import Node, NodeDetails
from app.errors.broker_error import BrokerError
from app.storage.db.engine import Storage
from app.storage.webhooks import nodes

BEAT_MS = 5_000
ALIVE_MS = 3 * BEAT_MS
_KEPT_MS = 3_600_000
_MOST = 1_000


@dataclass
class Nodes:
    """The nodes. With SQLite there is one, and nothing is written.

    Attributes:
        dispatcher: Whose id is that of the node.
        details: What does not change while the node runs.
        tasks: Returns the names of the background tasks, and of those that fail or have stopped.
        clock_ms: Wall clock in milliseconds.
    """

    storage: Storage
    dispatcher: Dispatcher
    details: NodeDetails
    tasks: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]]
    clock_ms: Callable[[], int]
    _started_at_ms: int = field(init=False)
    _beat: asyncio.Future[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._started_at_ms = self.clock_ms()

    async def beat(self) -> bool:
        """Note in the database that this node runs. Return False: there is no more to do now."""
        self._beat = self.storage.submit(nodes.note, self.dispatcher.node_id, self._details(), _KEPT_MS)
        await asyncio.shield(self._beat)
        return False

    async def leave(self) -> None:
        """Forget this node, which stops."""
        if self.storage.dialect.shared:
            with contextlib.suppress(BrokerError):
                if self._beat is not None:  # else it could note the node again
                    await asyncio.wait([self._beat])
                await self.storage.write(nodes.leave, self.dispatcher.node_id)

    async def list_(self) -> list[Node]:
        """Return this node and the others, the longest running one first."""
        node_id, details = self.dispatcher.node_id, self._details()
        found = await self.storage.read(nodes.list_, _MOST) if self.storage.dialect.shared else []
        if all(each.node_id != node_id for each in found):
            held = len(self.dispatcher.snapshots())
            found.append(Node(node_id, details, self._started_at_ms, 0, held))
        return [
            msgspec.structs.replace(each, details=details, age_ms=0) if each.node_id == node_id else each
            for each in found
        ]

    def _details(self) -> NodeDetails:
        tasks, down = self.tasks()
        return msgspec.structs.replace(self.details, tasks=tasks, tasks_down=down)
