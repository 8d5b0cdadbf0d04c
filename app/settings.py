"""The settings of a server: `MILLRACE_` and the field's name, or a line in `.env`."""

from __future__ import annotations

import contextlib
import json
import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from app.security_settings import SecuritySettings

_HOST_NAME = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")

_ORIGIN = re.compile(r"\*|null|(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_DATABASE_URL = re.compile(r"(sqlite|postgres(?:ql)?)(\+\w+)?://.*", re.DOTALL)

_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+(/[A-Za-z0-9._~-]+)*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")


_QUOTAS = {"produce_requests", "produce_bytes", "fetch_requests", "fetch_bytes"}


class Settings(SecuritySettings):
    """Read once, in `main`, and handed down in parts. Durations are in milliseconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="MILLRACE_", env_file=".env", env_file_encoding="utf-8", frozen=True, extra="ignore"
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8400, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    database_url: str = Field(
        "sqlite:///millrace.db",
        description="`sqlite:///path` or `postgresql://user:password@host/database`.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated `Host` names accepted besides addresses and local names; `*.x` accepts the names "
        "under x, `*` all.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated origins whose web pages may call the API."
    )
    root_path: str = Field(
        "", description="Path prefix under which a reverse proxy publishes the server, such as `/millrace`."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated addresses or networks of the reverse proxies whose `X-Forwarded-*` headers count.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level of the log: `debug` (every refusal), `info`, `warning` or `error`."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`text`, or `json`: each line of the log is one object."
    )
    access_log: bool = Field(default=False, description="Whether each request is logged.")
    metrics: bool = Field(default=True, description="Whether the node counts its work, and answers `/metrics`.")
    metrics_partition_series: int = Field(
        1_000,
        ge=0,
        le=100_000,
        description="Partitions of consumer groups that `/metrics` has series of their own for; the sums have all.",
    )
    metrics_kafka_names: bool = Field(
        default=False, description="Whether the series of consumer groups are named `kafka_` instead of `millrace_`."
    )
    otel: bool = Field(
        default=False,
        description="Whether traces are sent by OpenTelemetry (extra `otel`); its variables `OTEL_…` apply.",
    )
    auto_create_topics: bool = Field(default=True, description="Whether producing to an unknown topic creates it.")
    default_partitions: int = Field(
        4, ge=1, le=1_000, description="Partitions of a topic that is created without a number."
    )
    max_body_bytes: int = Field(
        33_554_432, ge=1_024, le=33_554_432, description="Largest request body, compressed or not."
    )
    max_message_bytes: int = Field(
        1_048_576, ge=1, le=33_554_432, description="Default of the topics' `max_message_bytes`."
    )
    max_records: int = Field(10_000, ge=1, le=10_000, description="Maximum number of records in a request or a page.")
    max_wait_ms: int = Field(60_000, ge=0, le=60_000, description="Longest wait of a read that is not a stream.")
    stream_comment_interval_ms: int = Field(
        15_000, ge=10, le=600_000, description="Interval of the comments or blank lines that keep a silent stream open."
    )
    poll_interval_ms: int = Field(
        500,
        ge=10,
        le=600_000,
        description="PostgreSQL: interval at which a node checks for appends whose notice was lost.",
    )
    notify_interval_ms: int = Field(
        10, ge=1, le=1_000, description="PostgreSQL: shortest time between two notices to the other nodes."
    )
    retention_interval_ms: int = Field(30_000, ge=10, le=3_600_000, description="Interval of retention and compaction.")
    clock_grace_ms: int = Field(
        3_600_000,
        ge=0,
        le=2_678_400_000,
        description="How long nothing is deleted by age after the clock has jumped ahead by more than an hour.",
    )
    rebalance_interval_ms: int = Field(
        250,
        ge=10,
        le=1_000,
        description="Interval at which groups with expired members or changed topics are rebalanced.",
    )
    max_connections: int = Field(10_000, ge=0, description="Maximum number of open connections; 0 for no limit.")
    max_connections_per_address: int = Field(
        5_000, ge=0, description="Maximum of one address that is not a trusted proxy; 0 for no limit."
    )
    max_waiting_requests: int = Field(
        5_000,
        ge=0,
        description="Long polls, acquires and streams of one principal that may wait, or of one address without a key; "
        "0 for no limit.",
    )
    quota_produce_requests_per_s: int = Field(
        0, ge=0, description="Produce requests a second of one principal on one node; 0 for no limit."
    )
    quota_produce_bytes_per_s: int = Field(
        0, ge=0, description="Bytes a second that one principal may produce on one node; 0 for no limit."
    )
    quota_fetch_requests_per_s: int = Field(
        0, ge=0, description="Fetch requests a second of one principal on one node; 0 for no limit."
    )
    quota_fetch_bytes_per_s: int = Field(
        0, ge=0, description="Bytes a second that one principal may fetch on one node; 0 for no limit."
    )
    principal_quotas: Annotated[dict[str, dict[str, int]], NoDecode] = Field(
        {}, description='Other quotas of some principals, as JSON: `{"app": {"produce_bytes": 1048576}}`.'
    )
    max_topics: int = Field(50_000, ge=1, description="Maximum number of topics.")
    max_partitions: int = Field(200_000, ge=1, description="Maximum number of partitions of all topics.")
    max_queues: int = Field(10_000, ge=1, description="Maximum number of queues.")
    max_sources: int = Field(10_000, ge=1, description="Maximum number of sources.")
    max_webhooks: int = Field(1_000, ge=1, description="Maximum number of webhooks.")
    max_groups: int = Field(100_000, ge=1, le=10_000_000, description="Maximum number of consumer groups.")
    max_group_members: int = Field(1_000, ge=1, le=10_000, description="Maximum number of members in a consumer group.")
    public_url: str = Field(
        "",
        description="URL under which clients reach the server, such as `https://log.example.com`: for the URLs of "
        "sources and Twilio's signatures.",
    )
    secret_key: str = Field(
        "",
        description="Keys that encrypt stored secrets: base64 of 32 bytes each, separated by commas; the first "
        "encrypts. SQLite makes its own.",
    )
    webhook_allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated networks, such as `127.0.0.0/8`, whose private addresses webhooks may use, also "
        "without TLS.",
    )
    webhook_allow_http: bool = Field(default=False, description="Whether webhooks may use public URLs without TLS.")
    webhook_ca_file: str = Field("", description="File of CA certificates for webhooks, instead of the system's.")
    webhook_proxy_url: str = Field("", description="Egress proxy for all webhooks, such as `http://proxy:3128`.")
    webhook_max_retrying: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="Records of a webhook that may wait for a retry; then it takes no new ones.",
    )
    webhook_attempts_kept: int = Field(
        10_000, ge=1, le=1_000_000, description="Delivered attempts, and others, that are kept for each webhook."
    )
    webhook_attempt_retention_ms: int = Field(
        1_209_600_000, ge=60_000, description="How long attempts of webhooks are kept."
    )
    ballast_bytes: int = Field(
        16_777_216,
        ge=0,
        le=1_073_741_824,
        description="SQLite: size of the file that is reserved for deletions on a full disk.",
    )
    memory_budget_bytes: int | None = Field(
        None,
        ge=16_777_216,
        description="Memory for requests under way, above that of the idle server; by default the smaller of 512 MiB "
        "and half the memory of the cgroup.",
    )
    max_pending_bytes: int = Field(
        268_435_456,
        ge=1_048_576,
        description="Limit of bytes in waiting appends; further appends are refused with 503.",
    )

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        """Refuse an empty host: an unset variable of a script would open the server to all interfaces."""
        if not host.strip():
            raise ValueError(
                "must be an address or a name such as 127.0.0.1, or 0.0.0.0 for all interfaces; it is empty"
            )
        return host.strip()

    @field_validator("principal_quotas", mode="before")
    @classmethod
    def _check_quotas(cls, given: object) -> object:
        quotas = given
        with contextlib.suppress(ValueError):
            quotas = json.loads(given) if isinstance(given, str) else given
        if not isinstance(quotas, dict) or not all(_is_quota(each) for each in quotas.values()):
            raise ValueError(
                'must be JSON such as {"app": {"produce_bytes": 1048576}}, with numbers from 0 for '
                f"{', '.join(sorted(_QUOTAS))}"
            )
        return quotas

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(
                    "must be names such as log.example.com or *.example.com, separated by commas, without a scheme or "
                    "a port"
                )
        return names

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """Return the origins as browsers send them: in lower case, without a slash at the end or a default port."""
        found = []
        for origin in origins:
            match = _ORIGIN.fullmatch(origin.lower().removesuffix("/"))
            if match is None:
                raise ValueError(
                    "must be origins such as https://app.example.com, separated by commas, with the scheme and without "
                    "a path"
                )
            found.append(match[0].removesuffix(_DEFAULT_PORTS.get(match["scheme"] or "", " ")))
        return tuple(found)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str) -> str:
        if not _DATABASE_URL.fullmatch(url):
            raise ValueError("must be sqlite:///path or postgresql://user:password@host/database, without quotes")
        return url

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str) -> str:
        url = url.rstrip("/")
        if url and not _PUBLIC_URL.fullmatch(url):
            raise ValueError("must be a URL such as https://log.example.com, without a query")
        return url

    @field_validator("secret_key")
    @classmethod
    def _check_secret_key(cls, keys: str) -> str:
        """Check the keys; the message does not repeat them."""
        for key in filter(None, (part.strip() for part in keys.split(","))):
            if not _SECRET_KEY.fullmatch(key):
                raise ValueError("must be base64 of 32 random bytes, as of: openssl rand -base64 32")
        return keys

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and not _ROOT_PATH.fullmatch(path):
            raise ValueError("must be a path such as /millrace, of letters, digits and . _ - between the slashes")
        return path

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ip_network(proxy)
            except ValueError:
                raise ValueError(
                    "must be addresses such as 10.0.0.1 or networks such as 10.0.0.0/8, separated by commas"
                ) from None
        return proxies

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _to_lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("allowed_hosts", "cors_origins", "trusted_proxies", "webhook_allowed_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _is_quota(quota: object) -> bool:
    return isinstance(quota, dict) and all(
        name in _QUOTAS and isinstance(rate, int) and rate >= 0 for name, rate in quota.items()
    )
