"""Certificates of receivers, from a certificate authority of the tests."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

_NOW = dt.datetime.fromtimestamp(time.time_ns() / 1e9, dt.UTC)
_DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates.

    Attributes:
        folder: Where the files are.
        ca_file: The certificate that clients must trust.
    """

    folder: Path
    ca_file: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def server_context(
        self, *names: str, days: tuple[int, int] = (-1, 1), self_signed: bool = False, asks_client: bool = False
    ) -> ssl.SSLContext:
        """Return what a server with a certificate for these names uses.

        Args:
            names: The DNS names in the certificate; the address 127.0.0.1 is in it if there are none.
            days: From and until when it is valid, from now.
            self_signed: Whether no authority has signed it.
            asks_client: Whether the server wants a certificate of the client.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate_file(*names, days=days, self_signed=self_signed))
        if asks_client:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def certificate_file(self, *names: str, days: tuple[int, int] = (-1, 1), self_signed: bool = False) -> Path:
        """Return a file with the key and the certificate of a server; the arguments are those of `server_context`."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        certificate = _sign(
            "receiver",
            key,
            "receiver" if self_signed else "Millrace tests",
            key if self_signed else self.key,
            days,
            x509.SubjectAlternativeName(alternatives or [x509.IPAddress(IPv4Address("127.0.0.1"))]),
        )
        path = self.folder / f"{certificate.serial_number:x}.pem"
        path.write_bytes(_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        return path


def make_authority(folder: Path) -> Authority:
    """Make an authority whose files are in a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    is_ca = x509.BasicConstraints(ca=True, path_length=None)
    certificate = _sign("Millrace tests", key, "Millrace tests", key, (-1_000, 1), is_ca)
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, ca_file, key, certificate)


def _sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: tuple[int, int],
    extension: x509.ExtensionType,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW + days[0] * _DAY)
        .not_valid_after(_NOW + days[1] * _DAY)
        .add_extension(extension, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
