"""Reading of a topic page by page, without a group."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from app.cli.client import RequestFailed
from app.cli.log.topics import topic_path
from app.cli.terminal.output import print_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.cli.client import Client

_PAGE_RECORDS = 500
_RETRY_BACKOFF_S = 0.1
_RETRY_BACKOFF_MAX_S = 5.0
_READ_TIMEOUT_S = 30.0
"""Longest wait for an answer, beyond the wait for records."""


class TopicReader:
    """Reads a topic or a partition page by page, and keeps the offset or cursor of the next page.

    Args:
        client: HTTP client.
        topic: Name of the topic.
        partition: None for all partitions, merged by time.
        offset: Offset spec of the first record.
        offset_reset: Offset spec to continue at if the records were deleted; None for an error.
    """

    def __init__(
        self, client: Client, topic: str, partition: int | None, offset: str, offset_reset: str | None
    ) -> None:
        partition_path = "" if partition is None else f"/partitions/{partition}"
        self._client = client
        self._path = f"{topic_path(topic)}{partition_path}/records"
        self._next_page = {"offset": offset}
        self._offset_reset = offset_reset

    def read(self, max_records: int, max_wait_ms: int) -> bytes:
        """Return the next records, one a line, as the server sent them; nothing at the end of the log.

        Raises:
            CommandFailed: The request failed; the next call repeats it.
        """
        response = self._client.send(
            "GET",
            self._path,
            params={
                **self._next_page,
                "max_records": max_records,
                "max_wait_ms": max_wait_ms or None,
                "offset_reset": self._offset_reset,
            },
            headers={"accept": "application/x-ndjson"},
            timeout_s=max_wait_ms / 1000 + _READ_TIMEOUT_S,
        )
        next_params = response.url.join(response.links["next"]["url"]).params
        self._next_page = {name: next_params[name] for name in ("offset", "cursor") if name in next_params}
        return response.content

    def pages(self, count: int | None, max_wait_ms: int | None) -> Iterator[bytes]:
        """Return pages of lines.

        The first read does not wait: it resolves `latest` to an offset, so that no later record is missed.

        Args:
            count: Most records to read; None for all.
            max_wait_ms: Longest wait of a read at the end of the log; None to end there.
        """
        lines = self.read(min(count or _PAGE_RECORDS, _PAGE_RECORDS), 0)
        while lines or max_wait_ms is not None:
            yield lines
            if count is not None and (count := count - lines.count(b"\n")) <= 0:
                return
            size = min(count or _PAGE_RECORDS, _PAGE_RECORDS)
            lines = self.read(size, 0) if max_wait_ms is None else self._read_with_retries(size, max_wait_ms)

    def _read_with_retries(self, max_records: int, max_wait_ms: int) -> bytes:
        """Read, and repeat the request until the server is available."""
        for attempt in itertools.count():
            try:
                return self.read(max_records, max_wait_ms)
            except RequestFailed as error:
                if not error.is_retriable:
                    raise
                if attempt == 0:
                    print_message(f"{error}; trying again")
                time.sleep(min(_RETRY_BACKOFF_S * 2 ** min(attempt, 10), _RETRY_BACKOFF_MAX_S))
        raise AssertionError  # pragma: no cover - attempts do not end
