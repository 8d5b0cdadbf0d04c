"""Settings from the environment and `.env`: wrong values, and variables without an effect."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import CommandFailed
from app.settings import Settings
from tests.cli.processes import Cli, serving

if TYPE_CHECKING:
    from pathlib import Path

PORT = "MILLRACE_PORT must be a whole number from 0 to 65535, and is "
WAIT = "MILLRACE_MAX_WAIT_MS must be a whole number of milliseconds from 0 to 60000, and is "
PENDING = "MILLRACE_MAX_PENDING_BYTES must be a whole number of bytes, 1048576 or more, and is "
ORIGINS = "MILLRACE_CORS_ORIGINS must be origins such as https://app.example.com, separated by commas, "
KUBERNETES = (
    "; Kubernetes sets this variable for a Service named millrace: set enableServiceLinks: false in the Pod, or"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without `MILLRACE_` variables."""
    for name in os.environ:
        if name.startswith("MILLRACE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(**options: object) -> str:
    with pytest.raises(CommandFailed) as refused:
        read_settings(options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "many", f"{PORT}'many'"),
        ("PORT", "70000", f"{PORT}'70000'"),
        ("PORT", "", f"{PORT}''"),
        ("PORT", "1" * 5000, f"{PORT}'{'1' * 40}…'"),
        ("PORT", "tcp://10.0.0.1:8400", f"{PORT}'tcp://10.0.0.1:8400'{KUBERNETES}"),
        ("MAX_WAIT_MS", "30s", f"{WAIT}'30s'"),
        ("MAX_WAIT_MS", "1.5", f"{WAIT}'1.5'"),
        ("MAX_PENDING_BYTES", "0", f"{PENDING}'0'"),
        ("AUTO_CREATE_TOPICS", "maybe", "MILLRACE_AUTO_CREATE_TOPICS must be true or false, and is 'maybe'"),
        ("ALLOWED_HOSTS", "https://x", "MILLRACE_ALLOWED_HOSTS must be names such as log.example.com or "),
        ("CORS_ORIGINS", "app.example.com", ORIGINS),
        ("CORS_ORIGINS", "https://x/app", ORIGINS),
        ("HOST", "", "MILLRACE_HOST must be an address or a name such as 127.0.0.1, or 0.0.0.0 for all "),
        ("ROOT_PATH", "mill race", "MILLRACE_ROOT_PATH must be a path such as /millrace, "),
        ("TRUSTED_PROXIES", "proxy", "MILLRACE_TRUSTED_PROXIES must be addresses such as 10.0.0.1 or networks "),
        ("PUBLIC_URL", "log.example.com", "MILLRACE_PUBLIC_URL must be a URL such as https://log.example.com"),
        ("SECRET_KEY", "c2hvcnQ=", "MILLRACE_SECRET_KEY must be base64 of 32 random bytes, "),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.1/8", "MILLRACE_WEBHOOK_ALLOWED_NETWORKS must be networks such as "),
        ("WEBHOOK_CA_FILE", "missing.pem", "MILLRACE_WEBHOOK_CA_FILE must be a file of CA certificates in PEM "),
        ("WEBHOOK_PROXY_URL", "proxy:3128", "MILLRACE_WEBHOOK_PROXY_URL must be a URL such as http://proxy:3128"),
        ("WEBHOOK_PROXY_URL", "socks5://proxy", "MILLRACE_WEBHOOK_PROXY_URL must be a URL such as http://proxy:3128"),
        ("OIDC_ISSUER", "https://x", "MILLRACE_OIDC_AUDIENCE must be set with MILLRACE_OIDC_ISSUER: without it, "),
        ("OIDC_ISSUER", "login.example.com", "MILLRACE_OIDC_ISSUER must be a URL such as https://login.example.com/"),
        ("OIDC_ALGORITHMS", "RS256,HS256", "MILLRACE_OIDC_ALGORITHMS must be some of RS256, RS384, RS512, PS256, "),
        ("OIDC_ALGORITHMS", "none", "MILLRACE_OIDC_ALGORITHMS must be some of RS256, RS384, RS512, PS256, PS384, "),
        ("OIDC_CA_FILE", "missing.pem", "MILLRACE_OIDC_CA_FILE must be a file of CA certificates in PEM format"),
        ("TLS_CERT", "missing.pem", "MILLRACE_TLS_CERT must be a file in PEM format; there is none at this path"),
        ("DATABASE_URL", '"sqlite:///x.db"', "MILLRACE_DATABASE_URL must be sqlite:///path or postgresql://"),
        ("DATABASE_URL", "", "MILLRACE_DATABASE_URL must be sqlite:///path or postgresql://"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_what_the_setting_must_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"MILLRACE_{name}", value)
    assert refusal().startswith(message)


def test_every_setting_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"MILLRACE_{name.upper()}", "" if name == "host" else "?!")
    first, *lines = refusal().splitlines()
    plain = re.compile(
        r"  MILLRACE_\w+ must be (a whole number( of (milliseconds|bytes))?(, \d+ or more| from \d+ to \d+)"
        r"|true or false|debug, info, warning or error|text or json|auto, keys or none), and is '\?!'"
    )

    assert first == f"{len(lines)} settings are wrong:"
    assert len(lines) == len(Settings.model_fields)
    assert [line.split()[0] for line in lines if not plain.fullmatch(line)] == [
        f"MILLRACE_{name}"
        for name in (
            "ADMIN_KEY",
            "SUPER_USERS",
            "TLS_CERT",
            "TLS_KEY",
            "OIDC_ISSUER",
            "OIDC_AUDIENCE",
            "OIDC_PRINCIPAL_CLAIM",
            "OIDC_ALGORITHMS",
            "OIDC_JWKS_URL",
            "OIDC_ALLOWED_NETWORKS",
            "OIDC_CA_FILE",
            "OIDC_PROXY_URL",
            "HOST",
            "DATABASE_URL",
            "ALLOWED_HOSTS",
            "CORS_ORIGINS",
            "ROOT_PATH",
            "TRUSTED_PROXIES",
            "PRINCIPAL_QUOTAS",
            "PUBLIC_URL",
            "SECRET_KEY",
            "WEBHOOK_ALLOWED_NETWORKS",
            "WEBHOOK_CA_FILE",
            "WEBHOOK_PROXY_URL",
        )
    ]


def test_all_wrong_values_are_named_at_once_and_no_password_is_shown(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("MILLRACE_DEFAULT_PARTITIONS", "0")
    (folder / ".env").write_text("MILLRACE_DATABASE_URL=mysql://u:secret@h/x\n")
    assert refusal(port=-1).splitlines() == [
        "3 settings are wrong:",
        "  --port must be a whole number from 0 to 65535, and is '-1'",
        "  MILLRACE_DATABASE_URL must be sqlite:///path or postgresql://user:password@host/database, without quotes",
        "  MILLRACE_DEFAULT_PARTITIONS must be a whole number from 1 to 1000, and is '0'",
    ]


def test_the_short_scheme_of_postgresql_is_a_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgres://user:secret@host/orders")
    assert read_settings({}).database_url == "postgres://user:secret@host/orders"


def test_an_env_file_that_is_not_utf_8_is_refused_by_its_name(folder: Path) -> None:
    (folder / ".env").write_bytes(b"MILLRACE_HOST=\xff\n")
    assert refusal() == f"the file {folder}/.env is not UTF-8; save it in UTF-8"


def test_origins_are_compared_as_browsers_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CORS_ORIGINS", "https://App.Example.com:443/, http://localhost:80, http://[::1]:3000")
    assert read_settings({}).cors_origins == ("https://app.example.com", "http://localhost", "http://[::1]:3000")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MILLRACE_PROT", "MILLRACE_PORT"),
        ("millrace_databse_url", "MILLRACE_DATABASE_URL"),
        ("MILLRACE_DB_URL", "MILLRACE_DATABASE_URL"),
        ("MILLRACE_CORS", "MILLRACE_CORS_ORIGINS"),
        ("MILLRACE_RETENTION_INTERVAL", "MILLRACE_RETENTION_INTERVAL_MS"),
        ("MILRACE_PORT", "MILLRACE_PORT"),
        ("MILLRACEPORT", "MILLRACE_PORT"),
    ],
)
def test_a_misspelt_variable_is_reported_with_the_setting_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")
    (folder / ".env").write_text(f"# a comment\n{name}=1\n")
    in_environment, in_file = ignored_variables()
    assert in_environment.startswith(f"{name} ")
    assert in_file.startswith(f"{name} in .env ")
    assert in_environment.endswith(f" has no effect; did you mean {meant}?")
    assert in_file.endswith(f" has no effect; did you mean {meant}?")


def test_a_variable_that_resembles_no_setting_is_reported_without_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_XYZZY", "1")
    assert ignored_variables() == ["MILLRACE_XYZZY is not a setting and has no effect; the README lists all settings"]


def test_a_line_of_the_env_file_that_cannot_be_read_is_reported(folder: Path) -> None:
    (folder / ".env").write_text("MILLRACE_HOST=::1\nMILLRACE_PORT 9000\nMILLRACE_PORT\nexport EDITOR\n")
    assert ignored_variables() == [f"line {number} of .env has no effect: write NAME=value" for number in (2, 3)]


def test_settings_and_the_variables_of_others_are_not_reported(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / ".env").write_text("POSTGRES_PASSWORD=x\nmillrace_port=1\nMILLRACE_PUBLISH=8400\n")
    for name in (
        "MILLRACE_URL", "MILLRACE_TEST_POSTGRES_URL", "MILLRACE_PORT", "MILLRACE_SERVICE_HOST",
        "MILLRACE_SERVICE_PORT_HTTP", "MILLRACE_PORT_8400_TCP_ADDR", "MILES_PORT",
    ):  # fmt: skip
        monkeypatch.setenv(name, "1")
    assert ignored_variables() == []


def test_serve_and_migrate_warn_of_a_misspelt_variable(alone: Cli, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MILLRACE_DATABASE=sqlite:///mine.db\n")
    warning = "MILLRACE_DATABASE in .env is not a setting and has no effect; did you mean MILLRACE_DATABASE_URL?"
    assert alone.ok("migrate").err == f"millrace: {warning}\n"
    with serving(tmp_path, "--port", "0"):
        pass
    assert f"WARNING app.cli.server.serve: {warning}\n" in (tmp_path / "server.log").read_text()
