"""What a verification has checked and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

Kind = Literal[
    "DAMAGED",
    "UNREADABLE",
    "ORPHAN",
    "MISSING",
    "OFFSETS",
    "DELETED",
    "SIZES",
    "TIMES",
    "COMPACTION",
    "PRODUCERS",
    "ABOVE_END",
    "GROUPS",
    "QUEUES",
    "WEBHOOKS",
    "ACCESS",
]

LISTED = 20
"""Inconsistencies of each kind that are listed; more are only counted, so that the memory is bounded."""


class Inconsistency(NamedTuple):
    """Something in the database that cannot be.

    Attributes:
        subject: Where it is, such as `orders/0`.
    """

    kind: Kind
    subject: str
    detail: str


class Report:
    """Collects the inconsistencies, and counts what was checked.

    Args:
        progress: Called with the number of records so far.

    Attributes:
        checked: Number of rows by table.
        found: Inconsistencies in the order in which they were found.
        more: Number of those beyond the listed ones, by kind.
    """

    def __init__(self, progress: Callable[[int], object] = bool) -> None:
        self.progress = progress
        self.checked: Counter[str] = Counter()
        self.found: list[Inconsistency] = []
        self.more: Counter[Kind] = Counter()
        self._listed: Counter[Kind] = Counter()

    @property
    def is_consistent(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    def add(self, kind: Kind, subject: str, detail: str) -> None:
        """Add an inconsistency."""
        if self._listed[kind] < LISTED:
            self._listed[kind] += 1
            self.found.append(Inconsistency(kind, subject, detail))
        else:
            self.more[kind] += 1

    def require(self, holds: bool, kind: Kind, subject: str, detail: str) -> None:  # noqa: FBT001 - the condition
        """Add an inconsistency unless a condition holds."""
        if not holds:
            self.add(kind, subject, detail)
