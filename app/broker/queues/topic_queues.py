"""What happens to queues when the topic that they hand out, or put their dead letters in, changes or goes."""

from __future__ import annotations

from app.errors.log import TopicInUse
from app.storage.db.engine import Tx
from app.storage.queues import queues

_NAMED = 10
"""Queues that a refusal names at most."""


class TopicQueues:
    """The queues over topics, as a `TopicDependent`."""

    def lock(self, tx: Tx, topic: str) -> None:
        """Lock the queues over a topic and their share partitions."""
        queues.lock_over(tx, topic)

    def check_delete(self, tx: Tx, topic_id: int) -> None:
        """Refuse to delete a topic that is the dead-letter topic of a queue.

        Raises:
            TopicInUse: With the names of up to ten queues.
        """
        if naming := queues.naming(tx, topic_id, _NAMED):
            raise TopicInUse(
                f"the topic is the dead-letter topic of {', '.join(naming)}; give them another one first", queues=naming
            )

    def grow(self, tx: Tx, topic_id: int, present: int) -> None:
        """Let the queues over a topic take in its partitions from number `present` on."""
        queues.follow(tx, topic_id, present)

    def delete(self, tx: Tx, topic_id: int) -> None:
        """Delete the queues over a topic with all their state."""
        queues.delete_of_topic(tx, topic_id)
