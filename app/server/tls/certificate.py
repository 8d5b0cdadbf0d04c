"""The certificate with which the server speaks HTTPS."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

_log = logging.getLogger(__name__)
_ENCRYPTED = "the private key has a passphrase; the server needs one without"


class CertificateUnusable(Exception):
    """The certificate or its key cannot be used. The message says why, and names the file."""


class Certificate:
    """A certificate and its key, read again when their files change: renewals need no restart.

    Args:
        certificate_file: PEM file with the certificate and its chain.
        key_file: PEM file with the private key; empty if it is in the same file.

    Attributes:
        context: What the server uses; new connections get the last certificate.

    Raises:
        CertificateUnusable: The files cannot be used.
    """

    def __init__(self, certificate_file: str, key_file: str) -> None:
        self._files = [certificate_file, *filter(None, [key_file])]
        self._state = self._read_state()
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._files)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_alpn_protocols(["http/1.1"])
        _load(self.context, self._files)

    def refresh(self) -> None:
        """Read the files again if they have changed. If they cannot be used, log it and keep the certificate."""
        state = self._read_state()
        if state == self._state:
            return
        self._state = state
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._files)
            _load(self.context, self._files)
        except CertificateUnusable as error:
            _log.warning("the new certificate is not used: %s", error)
        else:
            _log.info("the certificate was read again")

    def _read_state(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(Path(each)) for each in self._files]


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced, also by a symbolic link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _load(context: ssl.SSLContext, files: list[str]) -> None:
    """Load the certificate and its key.

    Raises:
        CertificateUnusable: With the file, and what is wrong with it.
    """
    for path in files:
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise CertificateUnusable(f"cannot read {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(files[0], files[-1], password=_refuse_passphrase)
    except ssl.SSLError as error:
        raise CertificateUnusable(_reason(error, files)) from None
    except ValueError:
        raise CertificateUnusable(f"{files[-1]}: {_ENCRYPTED}") from None


def _refuse_passphrase() -> str:
    """Refuse a key with a passphrase: OpenSSL would ask for it on the terminal."""
    raise ValueError(_ENCRYPTED)


def _reason(error: ssl.SSLError, files: list[str]) -> str:
    certificate, key = files[0], files[-1]
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} does not belong to the certificate in {certificate}"
    if error.reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "EE_MD_TOO_WEAK"}:
        return f"the certificate in {certificate} is too weak for TLS ({error.reason})"
    if certificate == key:
        return f"{certificate} must have a certificate and its private key, in PEM format; or set --tls-key"
    return f"{certificate} must have a certificate and {key} its private key, both in PEM format"
