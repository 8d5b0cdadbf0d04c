"""API keys: their format, and what is stored of them."""

from __future__ import annotations

from hashlib import sha256

import pytest

from app.domain.access.api_key import format_key, is_key_id, parse_key

SECRET = "abcdefghijklmnopqrstuvwxyzABCDEF"
KEY = format_key("k0k1k2k3k4k5", SECRET)


def test_a_key_has_its_id_its_secret_and_a_checksum() -> None:
    assert KEY.startswith(f"mr_k0k1k2k3k4k5_{SECRET}")
    assert len(KEY) == 3 + 12 + 1 + 32 + 6


def test_a_parsed_key_has_the_hash_of_its_secret() -> None:
    parsed = parse_key(KEY)

    assert parsed is not None
    assert parsed.key_id == "k0k1k2k3k4k5"
    assert parsed.secret_hash == sha256(SECRET.encode()).digest()


@pytest.mark.parametrize(
    "text",
    ["", "mr_", KEY[:-1], KEY + "0", KEY.replace("abc", "abd"), KEY.replace("k0k1", "k1k0"), KEY.upper(), f" {KEY}"],
)
def test_a_key_that_was_cut_or_mistyped_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_an_id_has_twelve_letters_and_digits() -> None:
    assert is_key_id("examplekey01")
    assert not any(map(is_key_id, ["examplekey0", "examplekey012", "example-key0", "exämplekey01", ""]))
