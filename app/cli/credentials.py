"""The key that the client commands send, and the CA certificates that they trust."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    import ssl

API_KEY = "MILLRACE_API_KEY"
CA_FILE = "MILLRACE_CA_FILE"
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def api_key() -> str:
    """Return the key or token for the server; empty without one.

    Raises:
        CommandFailed: It cannot be sent in a header. The message does not repeat it.
    """
    key = os.environ.get(API_KEY, "").strip()
    if key and not _VISIBLE.fullmatch(key):
        raise CommandFailed(f"{API_KEY} must be a key or a token, in one line and without spaces")
    return key


def tls_context() -> ssl.SSLContext | None:
    """Return the CA certificates in MILLRACE_CA_FILE; None for those of the system.

    Raises:
        CommandFailed: The file cannot be used.
    """
    path = os.environ.get(CA_FILE)
    if not path:
        return None
    import ssl

    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise CommandFailed(f"{path} must have CA certificates in PEM format ({CA_FILE})") from None
    except OSError as error:
        raise CommandFailed(f"cannot read the CA certificates in {path}: {error.strerror} ({CA_FILE})") from None


def hint_of_refused_key() -> str:
    """Return what to do about an answer 401."""
    if os.environ.get(API_KEY, "").strip():
        return f"the server does not accept what is in {API_KEY}"
    return f"set {API_KEY} to a key of the server"
