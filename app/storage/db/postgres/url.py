"""The URL of a PostgreSQL database: everything that libpq understands, with one host or several."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

_DEFAULTS: dict[str, Any] = {
    "application_name": "millrace",
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""`connect_timeout` is for each host."""


class PostgresUrl(NamedTuple):
    """A parsed URL.

    Attributes:
        options: What psycopg connects with, the password included.
        location: User, hosts and database, for people.
    """

    options: dict[str, Any]
    location: str


def parse_url(text: str) -> PostgresUrl:
    """Parse `postgresql://user:password@host1:port1,host2:port2/database?parameters`.

    Hosts and ports may also be parameters: `?host=a,b&port=1,2` as in libpq, or `?host=a:1&host=b:2`.

    Raises:
        ValueError: libpq does not understand the URL; the message has no password.
    """
    _, mark, rest = text.partition("://")
    if not mark:
        raise ValueError("MILLRACE_DATABASE_URL is not a URL: use postgresql://user:password@host/database")
    authority, _, query = rest.partition("?")
    try:
        given: dict[str, Any] = dict(conninfo_to_dict(f"postgresql://{authority}?{_libpq_query(query)}"))
    except psycopg.Error as error:
        raise ValueError(f"MILLRACE_DATABASE_URL is not a PostgreSQL URL: {_reason(error)}") from None
    except UnicodeError:
        raise ValueError("MILLRACE_DATABASE_URL is not a PostgreSQL URL: it is not percent-encoded UTF-8") from None
    if _has_raw_at(authority, str(given.get("host") or "")):
        raise ValueError(
            "MILLRACE_DATABASE_URL is not a PostgreSQL URL: it has two @, or a / before the @; percent-encode the "
            "password: %40 for @, %2F for /"
        )
    if not all(not port or port.isdecimal() for port in str(given.get("port") or "").split(",")):
        raise ValueError("MILLRACE_DATABASE_URL is not a URL: its port is not a number")
    options = _DEFAULTS | {name: value for name, value in given.items() if value is not None}
    return PostgresUrl(options | {"client_encoding": "utf8"}, _location(options))


def _reason(error: psycopg.Error) -> str:
    """Return the message of libpq without what it quotes of the URL, which may be the password or a part of it."""
    message, _, quoted = str(error).strip().partition(': "')
    if message.startswith("invalid URI query parameter"):
        return f'{message}: "{quoted}'
    if "percent-encoded" in message:
        return f"{message}; percent-encode the password: %25 for %"
    return message


def _libpq_query(query: str) -> str:
    """Return the parameters with the hosts as libpq has them: one list of hosts and one of ports."""
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)  # to libpq, + is no space
    hosts = [value for name, value in pairs if name == "host"]
    if len(hosts) < 2 and not (hosts and _has_port(hosts[0])):
        return query
    split = [host.rpartition(":")[::2] if _has_port(host) else (host, "") for host in hosts]
    others = [(name, value) for name, value in pairs if name not in {"host", "port"}]
    lists = [("host", ",".join(host for host, _ in split)), ("port", ",".join(port for _, port in split))]
    return urlencode([*others, *lists], quote_via=quote)


def _has_raw_at(authority: str, hosts: str) -> bool:
    """Return whether a part of the password counts as host or database. The path of a socket may have an @."""
    before_path, _, path = authority.partition("/")
    in_host = any("@" in host[1:] and not host.startswith(("/", "@")) for host in hosts.split(","))
    return in_host or ("@" in path and "@" not in before_path)


def _has_port(host: str) -> bool:
    name, colon, port = host.rpartition(":")
    return bool(colon) and port.isdecimal() and ":" not in name and "," not in host


def _location(options: dict[str, Any]) -> str:
    user = f"{options['user']}@" if options.get("user") else ""
    hosts = str(options.get("host") or "").split(",")
    ports = str(options.get("port") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = [f"{_in_brackets(host)}:{port}" if port else host for host, port in zip(hosts, ports, strict=False)]
    return f"postgresql://{user}{','.join(places)}/{options.get('dbname') or ''}"


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host
