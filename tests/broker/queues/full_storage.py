"""A storage with a full disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.storage.db.engine import Storage


class FullStorage:
    """A storage whose disk is full until `full` is set to False."""

    def __init__(self, storage: Storage) -> None:
        self.full = True
        self.read = storage.read
        self.write = storage.write
        self.disk_full = storage.disk_full
