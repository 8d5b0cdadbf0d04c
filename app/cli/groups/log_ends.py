"""Where the logs ended when a consumer began: without `--follow` it ends once its group has come so far."""

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
    """The log ends that a group has to reach. It may be any member that does.

    Raises:
        ServerRefused: A topic that is named is not there.
    """

    def __init__(self, client: Client, group: str, wish: JoinOptions) -> None:
        names = set(wish.topics)
        if wish.topic_pattern is not None:
            every = (topic["name"] for topic in client.pages("/v1/topics"))
            names |= {name for name in every if fnmatchcase(name, wish.topic_pattern) and not name.startswith("__")}
        self._client = client
        self._path = f"{group_path(group)}/offsets"
        self._ahead: dict[Partition, int] = {
            (name, one["partition"]): one["log_end_offset"]
            for name in sorted(names)
            for one in client.pages(f"{topic_path(name)}/partitions")
            if one["log_end_offset"] > one["log_start_offset"]
        }

    def reached(self) -> bool:
        """Return whether the group has committed all that there was."""
        if not self._ahead:
            return True
        offsets = {(one["topic"], one["partition"]): one for one in self._offsets()}
        for topic in {topic for topic, number in self._ahead if (topic, number) not in offsets}:
            self._forget_if_deleted(topic)
        for partition, one in offsets.items():
            end = self._ahead.get(partition)
            if end is not None and (one["lag"] == 0 or (one["committed_offset"] or 0) >= end):
                del self._ahead[partition]
        return not self._ahead

    def _offsets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.send("GET", self._path).json()["offsets"]
        return found

    def _forget_if_deleted(self, topic: str) -> None:
        try:
            self._client.send("GET", topic_path(topic))
        except ServerRefused as error:
            if error.status != 404:
                raise
            self._ahead = {partition: end for partition, end in self._ahead.items() if partition[0] != topic}
