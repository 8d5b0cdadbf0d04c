"""The log ends at the start of a group consumer: without `--follow` it ends when its group has committed them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from app.cli.client import Client, ServerRefused
from app.cli.groups.partitions import group_path
from app.cli.log.topics import topic_path

if TYPE_CHECKING:
    from app.cli.groups.membership import JoinOptions
    from app.cli.groups.partitions import Partition


class LogEnds:
    """The log ends that the members of a group have to commit.

    Raises:
        ServerRefused: A named topic does not exist.
    """

    def __init__(self, client: Client, group: str, options: JoinOptions) -> None:
        topics = set(options.topics)
        if options.topic_pattern is not None:
            names = (topic["name"] for topic in client.list_items("/v1/topics"))
            topics |= {name for name in names if fnmatchcase(name, options.topic_pattern) and not name.startswith("__")}
        self._client = client
        self._path = f"{group_path(group)}/offsets"
        self._uncommitted_ends: dict[Partition, int] = {
            (topic, partition["partition"]): partition["log_end_offset"]
            for topic in sorted(topics)
            for partition in client.list_items(f"{topic_path(topic)}/partitions")
            if partition["log_end_offset"] > partition["log_start_offset"]
        }

    def are_committed(self) -> bool:
        """Return whether the group has committed every log end."""
        if not self._uncommitted_ends:
            return True
        offsets = {(entry["topic"], entry["partition"]): entry for entry in self._offsets()}
        for topic in {topic for topic, number in self._uncommitted_ends if (topic, number) not in offsets}:
            self._drop_if_deleted(topic)
        for partition, entry in offsets.items():
            end = self._uncommitted_ends.get(partition)
            if end is not None and (entry["lag"] == 0 or (entry["committed_offset"] or 0) >= end):
                del self._uncommitted_ends[partition]
        return not self._uncommitted_ends

    def _offsets(self) -> list[dict[str, Any]]:
        offsets: list[dict[str, Any]] = self._client.send("GET", self._path).json()["offsets"]
        return offsets

    def _drop_if_deleted(self, topic: str) -> None:
        try:
            self._client.send("GET", topic_path(topic))
        except ServerRefused as error:
            if error.status != 404:
                raise
            self._uncommitted_ends = {
                partition: end for partition, end in self._uncommitted_ends.items() if partition[0] != topic
            }
