"""The programs of the guide that verify webhooks, in each language that is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from app.domain.webhooks.signature import parse_secret, sign_hmac, signed_content
from tests.checkout import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "whsec_bm90IGEgc2VjcmV0IGFueSBtb3JlLCByZWFsbHk="
OTHER = "whsec_YW5vdGhlciBzZWNyZXQgdGhhdCBpcyBrbm93biB0b28="
BODY = '{"name":"Zoë","n":1.0}'.encode() + b"\xff"
LANGUAGES = {"py": [sys.executable], "mjs": ["node"], "go": ["go", "build", "-o"], "rb": ["ruby"]}
FOLDER = ROOT / "examples" / "verify_webhook"


@pytest.fixture(params=LANGUAGES)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command that verifies."""
    suffix: str = request.param
    command = LANGUAGES[suffix]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    source = str(FOLDER / f"verify.{suffix}")
    if suffix != "go":
        return [*command, source]
    subprocess.run([*command, str(tmp_path / "verify"), source], check=True, cwd=tmp_path)
    return [str(tmp_path / "verify")]


def signatures(body: bytes, timestamp_s: int, *secrets: str) -> str:
    content = signed_content("msg_1", timestamp_s, body)
    return " ".join(sign_hmac([parse_secret(secret) for secret in secrets], content))


def test_it_accepts_what_is_signed_with_the_secret_and_nothing_else(program: list[str]) -> None:
    now_s = time.time_ns() // 1_000_000_000
    own = signatures(BODY, now_s, SECRET)
    attempts = [
        (BODY, now_s, own),
        (BODY, now_s, signatures(BODY, now_s, OTHER, SECRET)),
        (BODY + b" ", now_s, own),
        (BODY, now_s + 1, own),
        (BODY, now_s, signatures(BODY, now_s, OTHER)),
        (BODY, now_s - 400, signatures(BODY, now_s - 400, SECRET)),
        (BODY, now_s + 400, signatures(BODY, now_s + 400, SECRET)),
        (BODY, now_s, ""),
        (BODY, now_s, "v1,"),
        (BODY, now_s, own[:-4]),
        (BODY, now_s, own.removeprefix("v1,")),
    ]

    outputs = []
    for body, timestamp_s, signature in attempts:
        words = [*program, SECRET, "msg_1", str(timestamp_s), signature]
        done = subprocess.run(words, input=body, capture_output=True, check=False)
        outputs.append((done.returncode == 0, done.stdout.strip()))

    assert outputs == [(True, b"verified")] * 2 + [(False, b"")] * 9


@pytest.mark.parametrize("suffix", LANGUAGES)
def test_the_guide_shows_the_function_of_the_program(suffix: str) -> None:
    guide = (ROOT / "docs" / "webhooks.md").read_text()
    language = {"py": "python", "mjs": "js", "rb": "ruby"}.get(suffix, suffix)

    shown = re.findall(rf"^```{language}\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)

    assert len(shown) == 1
    assert shown[0] in (FOLDER / f"verify.{suffix}").read_text()
