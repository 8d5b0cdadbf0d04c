"""Changes to queues that follow from changes to the topics that they deliver or use for dead letters."""

from __future__ import annotations

from app.broker.queues.held_records import HeldRecords
from app.errors.log import TopicInUse
from app.storage.db.transaction import Tx
from app.storage.queues import queues

_MAX_NAMES = 10
"""Queues that an error names at most."""


class TopicQueues:
    """The queues over topics, as a `TopicDependent`."""

    def lock(self, tx: Tx, topic: str) -> None:
        """Lock the queues over a topic and their share partitions."""
        queues.lock_by_topic(tx, topic)

    def check_delete(self, tx: Tx, topic_id: int) -> None:
        """Check that a topic is not the dead-letter topic of a queue.

        Raises:
            TopicInUse: With the names of up to ten queues.
        """
        if names := queues.names_by_dead_letter_topic(tx, topic_id, _MAX_NAMES):
            users = list(dict.fromkeys(_user(name) for name in names))
            raise TopicInUse(
                f"the topic is the dead-letter topic of {', '.join(users)}; give them another one first",
                queues=[name for name in names if ":" not in name],
            )

    def check_compact(self, tx: Tx, topic_id: int) -> None:
        """Check that a topic is not the dead-letter topic of a queue: dead letters without a key would be deleted.

        Raises:
            TopicInUse: With the names of up to ten queues.
        """
        self.check_delete(tx, topic_id)

    def hold(self, tx: Tx, partition_id: int) -> HeldRecords:
        """Lock the share partitions of a partition, before the log deletes records that they hold."""
        return HeldRecords(tx, partition_id)

    def grow(self, tx: Tx, topic_id: int, first_new_partition: int) -> None:
        """Add the new partitions of a topic, from `first_new_partition`, to the queues over it."""
        queues.add_partitions(tx, topic_id, first_new_partition)

    def delete(self, tx: Tx, topic_id: int) -> None:
        """Delete the queues over a topic with their state."""
        queues.delete_by_topic(tx, topic_id)


def _user(queue: str) -> str:
    """Return what the user knows of a queue: its name, or the webhook of `webhook:billing:orders`."""
    owner, _, _ = queue.rpartition(":")
    return owner.replace(":", " ") or queue
