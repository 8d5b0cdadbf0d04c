"""URLs of PostgreSQL: one host or several, in every form that libpq or SQLAlchemy has."""

from __future__ import annotations

import pytest

from app.storage.db.postgres.url import parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "location"),
    [
        ("postgresql://h/d", "h", None, "postgresql://h/d"),
        ("postgres://u@h:6432/d", "h", "6432", "postgresql://u@h:6432/d"),
        ("postgresql+psycopg://u:p@h/d", "h", None, "postgresql://u@h/d"),
        ("postgresql://u:p@a:1,b:2/d", "a,b", "1,2", "postgresql://u@a:1,b:2/d"),
        ("postgresql://u:p@a,b/d?target_session_attrs=read-write", "a,b", ",", "postgresql://u@a,b/d"),
        ("postgresql://u@/d?host=a,b&port=1,2", "a,b", "1,2", "postgresql://u@a:1,b:2/d"),
        ("postgresql://u@/d?host=a:1&host=b:2", "a,b", "1,2", "postgresql://u@a:1,b:2/d"),
        ("postgresql://u@/d?host=a&host=b&port=7", "a,b", ",", "postgresql://u@a,b/d"),
        ("postgresql://u@[::1]:1,[fe80::2]:2/d", "::1,fe80::2", "1,2", "postgresql://u@[::1]:1,[fe80::2]:2/d"),
        ("postgresql:///d?host=@socket", "@socket", None, "postgresql://@socket/d"),
        ("postgresql:///d?host=/run/pg@15", "/run/pg@15", None, "postgresql:///run/pg@15/d"),
        ("postgresql:///d?host=/var/run/postgresql", "/var/run/postgresql", None, "postgresql:///var/run/postgresql/d"),
    ],
)
def test_every_form_names_its_hosts_and_ports(url: str, host: str, port: str | None, location: str) -> None:
    parsed = parse_url(url)

    assert parsed.options.get("host") == host
    assert parsed.options.get("port") == port
    assert parsed.location == location
    assert parsed.options["dbname"] == "d"


def test_a_password_with_special_characters_is_decoded_and_not_shown() -> None:
    parsed = parse_url("postgresql://u:p%40%2C%3A@a:1,b:2/d")

    assert parsed.options["password"] == "p@,:"
    assert "p@" not in parsed.location


def test_a_parameter_of_the_url_precedes_the_default() -> None:
    parsed = parse_url("postgresql://h/d?connect_timeout=9&application_name=shop&client_encoding=latin1")

    assert parsed.options["connect_timeout"] == "9"
    assert parsed.options["application_name"] == "shop"
    assert parsed.options["client_encoding"] == "utf8"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h/d?no_such=1",
        "postgresql://u:secret@h:x/d",
        "postgresql:",
        "postgresql://u:secret@h/%zz",
        "postgresql://u:secret%zz@h/d",
        "postgresql://u:secret%@h/d",
        "postgresql://u:secret%00@h/d",
        "postgresql://u:secret%ff@h/d",
        "postgresql://h/d?password=secret%zz",
        "postgresql://h/d?sslpassword=secret%zz&no_such=1",
        "postgresql://u:secret@[h/d",
        "postgresql://u:p@secret@h/d",
        "postgresql://u:p/secret@h/d",
        "postgresql://u:12/secret@h/d",
    ],
)
def test_what_libpq_does_not_understand_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="MILLRACE_DATABASE_URL is not a") as refusal:
        parse_url(url)

    assert "secret" not in str(refusal.value)


def test_a_plus_in_a_parameter_is_no_space_with_one_host_or_several() -> None:
    for hosts in ("host=a", "host=a:1", "host=a&host=b"):
        assert parse_url(f"postgresql:///d?{hosts}&password=p+q").options["password"] == "p+q"
