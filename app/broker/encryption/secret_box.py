"""Encrypt secrets for the database with AES-256-GCM, and decrypt them.

A ciphertext is bound to the row and the field that it is stored in: it cannot be moved to another one. It begins with
an id of its key, so that a new key can be introduced while the old one still decrypts.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from app.errors.webhooks import SecretKeyMissing

_KEY_BYTES = 32
_ID_BYTES = 4
_NONCE_BYTES = 12


class WrongSecretKey(Exception):
    """No key decrypts the secret: the key was replaced, or the row was changed by hand."""


class SecretBox:
    """Encrypts with the first key, and decrypts with any.

    Args:
        load_keys: Returns the keys; called until there is one, so that a server without secrets needs none.
        make_key: Makes a key for the first secret if there is none. Raises `SecretKeyMissing` if it must not.
    """

    def __init__(self, load_keys: Callable[[], Sequence[bytes]], make_key: Callable[[], bytes] | None = None) -> None:
        self._load_keys = load_keys
        self._make_key = make_key
        self._keys: Sequence[bytes] = ()

    def encrypt(self, secret: bytes, bound_to: str) -> bytes:
        """Encrypt a secret for a row and field.

        Raises:
            SecretKeyMissing: There is no key.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only servers with secrets

        key = self._first_key()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _id_of(key) + nonce + AESGCM(key).encrypt(nonce, secret, bound_to.encode())

    def decrypt(self, stored: bytes, bound_to: str) -> bytes:
        """Decrypt a secret of a row and field.

        Raises:
            WrongSecretKey: No key fits.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only servers with secrets
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only servers with secrets

        key_id, nonce, ciphertext = (
            stored[:_ID_BYTES],
            stored[_ID_BYTES : _ID_BYTES + _NONCE_BYTES],
            stored[_ID_BYTES + _NONCE_BYTES :],
        )
        try:
            keys = self._all_keys()
        except ValueError as error:
            raise WrongSecretKey(str(error)) from None
        for key in keys:
            if _id_of(key) == key_id:
                try:
                    return AESGCM(key).decrypt(nonce, ciphertext, bound_to.encode())
                except InvalidTag:
                    break
        raise WrongSecretKey("no key of MILLRACE_SECRET_KEY decrypts this secret")

    def is_current(self, stored: bytes) -> bool:
        """Return whether a secret is encrypted with the first key."""
        keys = self._all_keys()
        return bool(keys) and stored[:_ID_BYTES] == _id_of(keys[0])

    def _first_key(self) -> bytes:
        try:
            keys = self._all_keys()
        except ValueError as error:
            raise SecretKeyMissing(str(error)) from None
        if not keys and self._make_key is not None:
            keys = self._keys = [self._make_key()]
        if not keys:
            raise SecretKeyMissing("set MILLRACE_SECRET_KEY to the base64 of 32 random bytes: openssl rand -base64 32")
        return keys[0]

    def _all_keys(self) -> Sequence[bytes]:
        if not self._keys:
            self._keys = self._load_keys()
        return self._keys


def parse_keys(text: str) -> list[bytes]:
    """Parse comma-separated keys, each the base64 of 32 bytes.

    Raises:
        ValueError: A key is not valid.
    """
    keys = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            key = b64decode(part, validate=True)
        except (Base64Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise ValueError("each key is the base64 of 32 bytes: openssl rand -base64 32")
        keys.append(key)
    return keys


def keys_of(setting: str, database: Path | None) -> list[bytes]:
    """Return the keys of the setting, then with SQLite the one beside the database, if there is one.

    Args:
        setting: `MILLRACE_SECRET_KEY`.
        database: The file of SQLite, or None.

    Raises:
        ValueError: A key is not valid.
    """
    keys = parse_keys(setting)
    if database is not None and (path := _path_beside(database)).exists():
        if not (beside := parse_keys(path.read_text())):
            raise ValueError(f"{path.name} has no key; restore it from a backup")
        keys += beside
    return keys


def make_key_beside(database: Path, has_secrets: Callable[[], bool]) -> bytes:
    """Make a key beside an SQLite database, in a file for its owner alone.

    Args:
        database: The file of SQLite.
        has_secrets: Returns whether the database has secrets: then another key was lost, and could not come back any
            more beside a new one.

    Raises:
        SecretKeyMissing: The database has secrets.
    """
    path = _path_beside(database)
    if has_secrets():
        raise SecretKeyMissing(
            f"{path.name} is missing, whose key encrypted the secrets of this database: restore it from its backup, "
            "or set MILLRACE_SECRET_KEY to a new key and rotate all secrets"
        )
    key = secrets.token_bytes(_KEY_BYTES)
    _write_key(path, key)
    return key


def _path_beside(database: Path) -> Path:
    return database.with_name(database.name + ".secret-key")


def _write_key(path: Path, key: bytes) -> None:
    """Write a key file. It has its name only once the key is on the disk, and the name is on the disk too."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b64encode(key) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _id_of(key: bytes) -> bytes:
    return sha256(b"millrace secret key" + key).digest()[:_ID_BYTES]
