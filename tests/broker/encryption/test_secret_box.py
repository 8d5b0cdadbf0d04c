"""Keys that encrypt and decrypt, and the one beside an SQLite database."""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from app.broker.encryption.secret_box import SecretBox, WrongSecretKey, keys_of, make_key_beside
from app.errors.webhooks import SecretKeyMissing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = (b64encode(letter * 32).decode() for letter in (b"o", b"n"))


def box_of(setting: str) -> SecretBox:
    return SecretBox(lambda: keys_of(setting, None))


def beside(database: Path, has_secrets: Callable[[], bool]) -> SecretBox:
    return SecretBox(lambda: keys_of("", database), lambda: make_key_beside(database, has_secrets))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "millrace.db"


def key_file(database: Path) -> Path:
    return database.with_name("millrace.db.secret-key")


def test_each_step_of_a_rotation_decrypts_what_the_step_before_and_the_step_after_encrypt() -> None:
    steps = [OLD, f"{OLD},{NEW}", f"{NEW},{OLD}"]
    for before, after in pairwise(steps):
        for one, other in ((before, after), (after, before)):
            stored = box_of(one).encrypt(b"secret", "webhooks/1/secret")
            assert box_of(other).decrypt(stored, "webhooks/1/secret") == b"secret"

    rewrapped = box_of(f"{NEW},{OLD}").encrypt(b"secret", "webhooks/1/secret")
    assert box_of(NEW).decrypt(rewrapped, "webhooks/1/secret") == b"secret"


def test_a_ciphertext_belongs_to_one_row() -> None:
    stored = box_of(OLD).encrypt(b"secret", "webhooks/1/secret")

    with pytest.raises(WrongSecretKey):
        box_of(OLD).decrypt(stored, "webhooks/2/secret")


def test_the_first_secret_makes_a_key_for_the_owner_alone(database: Path) -> None:
    stored = beside(database, lambda: False).encrypt(b"secret", "a")

    assert stat.S_IMODE(key_file(database).stat().st_mode) == 0o600
    assert len(b64decode(key_file(database).read_bytes())) == 32
    assert [each.name for each in database.parent.iterdir()] == [key_file(database).name]
    assert beside(database, lambda: True).decrypt(stored, "a") == b"secret"


def test_a_file_that_a_crash_has_left_does_not_decide_who_may_read_the_key(database: Path) -> None:
    left = database.with_name("millrace.db.secret-key.new")
    left.write_text("a part of a key")
    left.chmod(0o644)

    beside(database, lambda: False).encrypt(b"secret", "a")

    assert stat.S_IMODE(key_file(database).stat().st_mode) == 0o600
    assert not left.exists()


def test_no_key_is_made_while_the_database_has_secrets_of_another(database: Path) -> None:
    first = beside(database, lambda: False)
    stored = first.encrypt(b"secret", "a")
    key = key_file(database).read_bytes()
    key_file(database).unlink()
    box = beside(database, lambda: True)

    with pytest.raises(SecretKeyMissing, match=r"millrace\.db\.secret-key is missing.*restore it from its backup"):
        box.encrypt(b"another", "b")
    with pytest.raises(WrongSecretKey):
        box.decrypt(stored, "a")
    assert not key_file(database).exists()

    key_file(database).write_bytes(key)
    assert box.decrypt(stored, "a") == b"secret"
    assert first.decrypt(box.encrypt(b"another", "b"), "b") == b"another"


def test_a_key_file_without_a_key_says_what_to_do(database: Path) -> None:
    key_file(database).write_text("\n")
    box = beside(database, lambda: True)

    with pytest.raises(SecretKeyMissing, match="has no key; restore it from a backup"):
        box.encrypt(b"secret", "a")
    with pytest.raises(WrongSecretKey, match="has no key; restore it from a backup"):
        box.decrypt(b"x" * 40, "a")
