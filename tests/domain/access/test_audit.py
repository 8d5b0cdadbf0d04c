"""The audit topic has no secrets."""

from __future__ import annotations

from app.domain.access.audit import without_secrets


def test_secrets_are_replaced_at_every_depth() -> None:
    body = {
        "url": "https://a.example",
        "secret": "whsec_x",
        "headers": {"Authorization": "Bearer y"},
        "verify": {"scheme": "github", "secret": "z", "verify_token": None},
        "list": [{"secret": "q"}, 1],
    }

    assert without_secrets(body) == {
        "url": "https://a.example",
        "secret": "***",
        "headers": "***",
        "verify": {"scheme": "github", "secret": "***", "verify_token": None},
        "list": [{"secret": "***"}, 1],
    }
