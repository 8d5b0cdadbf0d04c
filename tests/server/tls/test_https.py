"""HTTPS: the limits of a connection hold, and certificates are checked and renewed."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.server.tls.certificate import Certificate, CertificateUnusable
from tests.broker.outbound.certificates import Authority, make_authority
from tests.server.tiny_server import LARGE_BYTES
from tests.server.tiny_server_process import (
    DEADLINE_S,
    GET,
    TinyServer,
    closing,
    json_bodies,
    parse,
    problem,
    read_to_end,
    read_until,
    running,
)
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    path = authority.folder / "server.pem"
    shutil.copy(authority.certificate_file(), path)
    return path


@pytest.fixture(scope="module")
def server(authority: Authority, certificate: Path) -> Iterator[TinyServer]:
    """A server with short timeouts, which leave time for a handshake."""
    with running(
        certificate=str(certificate),
        header_timeout_ms=500,
        body_timeout_ms=500,
        write_timeout_ms=200,
        linger_ms=200,
    ) as each:
        each.tls = ssl.create_default_context(cafile=authority.ca_file)
        each.tls.set_alpn_protocols(["h2", "http/1.1"])
        yield each


def test_pipelined_requests_are_answered_in_order(server: TinyServer) -> None:
    requests = b"".join(f"GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for number in range(20))

    received = server.exchange(requests + closing("/last"))

    assert [json.loads(part)["path"] for part in json_bodies(received)] == [*(f"/{n}" for n in range(20)), "/last"]


def test_the_protocol_is_http_1_1_and_old_versions_of_tls_are_refused(server: TinyServer) -> None:
    with server.connect() as client:
        assert isinstance(client, ssl.SSLSocket)
        assert (client.selected_alpn_protocol(), client.version()) == ("http/1.1", "TLSv1.3")

    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as plain, pytest.raises(OSError):
        old.wrap_socket(plain)


def test_a_rejection_arrives_completely_while_the_client_goes_on_sending(server: TinyServer) -> None:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100_000)

        received = read_until(client, b"}\n")

    problem(received, 400, "BAD_REQUEST")


def test_connections_without_a_complete_handshake_or_head_are_closed(server: TinyServer) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    address = "127.0.0.1", server.port
    with (
        socket.create_connection(address, DEADLINE_S) as silent,
        socket.create_connection(address, DEADLINE_S) as slow,
        server.connect() as idle,
        server.connect() as begun,
    ):
        slow.sendall(hello)
        begun.sendall(b"GET / HTTP/1.1\r\nHo")

        assert read_to_end(silent) == b""
        assert read_to_end(slow) == b""
        assert read_to_end(idle) == b""
        assert parse(read_to_end(begun)).status == 408


def test_http_without_tls_is_not_answered(server: TinyServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as plain:
        plain.sendall(GET)
        assert b"HTTP" not in read_to_end(plain)


@pytest.mark.anyio
async def test_a_client_that_reads_nothing_of_a_large_answer_is_cut_off(server: TinyServer) -> None:
    with server.connect() as silent:
        silent.sendall(closing("/large"))
        await until(lambda: held_by(server), lambda size: size > 0)
        await until(lambda: held_by(server), lambda size: size == 0)


@pytest.mark.anyio
async def test_a_renewed_certificate_is_used_without_a_restart(
    server: TinyServer, authority: Authority, certificate: Path
) -> None:
    before = serial_of(server)
    with server.connect() as kept:
        shutil.copy(authority.certificate_file(), certificate)

        async def serial() -> str:
            return serial_of(server)

        await until(serial, lambda found: found != before)
        kept.sendall(GET)


@pytest.mark.anyio
async def test_a_large_answer_is_counted_until_it_is_read_and_idle_connections_do_not_hold_up_the_stop(
    authority: Authority,
) -> None:
    with running(certificate=str(authority.certificate_file())) as server:
        server.tls = ssl.create_default_context(cafile=authority.ca_file)
        with server.connect() as reader, server.connect() as idle:
            reader.sendall(closing("/large"))
            idle.sendall(GET)
            read_until(idle, b"}")
            await until(lambda: held_by(server), lambda size: size > LARGE_BYTES // 4)
            assert size_to_end(reader) > LARGE_BYTES
            assert await held_by(server) == 0

            server.process.terminate()
            out, err = server.process.communicate(timeout=DEADLINE_S)
        assert (server.process.returncode, out, err) == (0, "cleaned up\n", "")


def size_to_end(client: socket.socket) -> int:
    """Read until the server closes. Return how many bytes came."""
    size = 0
    while piece := client.recv(65_536):
        size += len(piece)
    return size


async def held_by(server: TinyServer) -> int:
    """Return how many bytes the connections of this machine hold."""
    return int(parse(server.exchange(closing("/held"))).body)


def serial_of(server: TinyServer) -> str:
    with server.connect() as client:
        assert isinstance(client, ssl.SSLSocket)
        found = client.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def test_a_certificate_that_cannot_be_used_is_refused_with_the_reason(authority: Authority, tmp_path: Path) -> None:
    good = str(authority.certificate_file())
    key = ec.generate_private_key(ec.SECP256R1())
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    folder = str(tmp_path)

    for files, reason in (
        ((good, str(authority.certificate_file())), f"does not belong to the certificate in {good}"),
        ((good, str(encrypted)), f"{encrypted}: the private key has a passphrase"),
        ((str(authority.ca_file), ""), "must have a certificate and its private key, in PEM format; or set --tls-key"),
        ((str(authority.ca_file), str(authority.ca_file)), "must have a certificate and its private key"),
        ((str(encrypted), good), f"{encrypted} must have a certificate and {good} its private key"),
        ((good, f"{folder}/missing.pem"), f"cannot read {folder}/missing.pem: No such file or directory"),
        ((folder, ""), f"cannot read {folder}: Is a directory"),
    ):
        with pytest.raises(CertificateUnusable) as refused:
            Certificate(*files)
        assert reason in str(refused.value)


def test_a_certificate_is_kept_while_its_file_is_wrong(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.server.tls.certificate")
    path = tmp_path / "server.pem"
    shutil.copy(authority.certificate_file(), path)
    certificate = Certificate(str(path), "")

    certificate.refresh()
    path.unlink()
    certificate.refresh()
    certificate.refresh()
    shutil.copy(authority.certificate_file(), path)
    certificate.refresh()

    assert [record.message for record in caplog.records] == [
        f"the new certificate is not used: cannot read {path}: No such file or directory",
        "the certificate was read again",
    ]
