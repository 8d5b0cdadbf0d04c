"""The id of one delivery of a record, as clients send it back. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_DELIVERY_ID = re.compile(r"([0-9]{1,18})\.([0-9]{1,4})\.([0-9]{1,15})\.([0-9]{1,9})")


class DeliveryId(NamedTuple):
    """The id of a delivery: queue, partition, offset, and the number of the delivery, from 1."""

    queue_id: int
    partition: int
    offset: int
    delivery_count: int

    def __str__(self) -> str:
        """Return the id as clients see it."""
        return f"{self.queue_id}.{self.partition}.{self.offset}.{self.delivery_count}"


def parse_delivery_id(text: str) -> DeliveryId | None:
    """Parse a delivery id, or return None if the text is not one."""
    found = _DELIVERY_ID.fullmatch(text)
    return None if found is None else DeliveryId(*map(int, found.groups()))
