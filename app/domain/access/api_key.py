"""API keys: `mr_<id>_<secret><checksum>`. Pure.

The id names the key in lists and logs. The checksum finds keys that were cut or mistyped without a look into the
database, and lets secret scanners recognize a key.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 12
SECRET_CHARACTERS = 32
"""190 bits."""
_CHECKSUM_CHARACTERS = 6
_KEY = re.compile(rf"mr_([0-9A-Za-z]{{{ID_CHARACTERS}}})_([0-9A-Za-z]{{{SECRET_CHARACTERS}}})([0-9A-Za-z]{{6}})")


class ApiKey(NamedTuple):
    """The parts of a key.

    Attributes:
        secret_hash: SHA-256 of the secret, which is what the database stores.
    """

    key_id: str
    secret_hash: bytes


def format_key(key_id: str, secret: str) -> str:
    """Return the key of an id and a secret, both of letters and digits."""
    return f"mr_{key_id}_{secret}{_checksum(key_id, secret)}"


def parse_key(text: str) -> ApiKey | None:
    """Return the parts of a key, or None if the text is not a key or its checksum is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or match[3] != _checksum(match[1], match[2]):
        return None
    return ApiKey(match[1], hash_secret(match[2]))


def is_key_id(text: str) -> bool:
    """Return whether a text can be the id of a key."""
    return len(text) == ID_CHARACTERS and text.isascii() and text.isalnum()


def hash_secret(secret: str) -> bytes:
    """Return what the database stores of a secret.

    The hash is fast, because the secret has 190 random bits: it cannot be found by trying, and a slow hash would cost a
    tenth of a second of CPU for each wrong key.
    """
    return sha256(secret.encode()).digest()


def _checksum(key_id: str, secret: str) -> str:
    number = crc32(f"{key_id}_{secret}".encode())
    digits = []
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
