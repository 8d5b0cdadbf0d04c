"""Which URLs of receivers are accepted, and what they are taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.outbound.addresses import refusal_of
from app.domain.outbound.target import MAX_URL_LENGTH, Target, parse_target


@pytest.mark.parametrize(
    ("url", "target", "host_header"),
    [
        ("https://example.com", ("https", "example.com", 443, "/"), "example.com"),
        ("HTTPS://Example.COM:443/Hooks?a=b&c", ("https", "example.com", 443, "/Hooks?a=b&c"), "example.com"),
        ("http://example.com", ("http", "example.com", 80, "/"), "example.com"),
        ("https://example.com:80/", ("https", "example.com", 80, "/"), "example.com:80"),
        ("https://example.com:8443/a%20b/é", ("https", "example.com", 8443, "/a%20b/%C3%A9"), "example.com:8443"),
        ("https://example.com?x=ü", ("https", "example.com", 443, "/?x=%C3%BC"), "example.com"),
        ("https://example.com./", ("https", "example.com.", 443, "/"), "example.com."),
        ("https://my_host.example/", ("https", "my_host.example", 443, "/"), "my_host.example"),
        ("https://bücher.example/", ("https", "xn--bcher-kva.example", 443, "/"), "xn--bcher-kva.example"),
        ("https://faß.example/", ("https", "xn--fa-hia.example", 443, "/"), "xn--fa-hia.example"),
        ("https://日本語。example/", ("https", "xn--wgv71a119e.example", 443, "/"), "xn--wgv71a119e.example"),
        ("http://127.0.0.1:9000/", ("http", "127.0.0.1", 9000, "/"), "127.0.0.1:9000"),
        ("http://①②⑦.⓪.⓪.①/", ("http", "127.0.0.1", 80, "/"), "127.0.0.1"),
        ("http://[::1]:9000/", ("http", "::1", 9000, "/"), "[::1]:9000"),
        ("https://[2001:DB8:0:0::1]/", ("https", "2001:db8::1", 443, "/"), "[2001:db8::1]"),
    ],
)
def test_a_url_is_taken_apart(url: str, target: tuple[str, str, int, str], host_header: str) -> None:
    parsed = parse_target(url)

    assert parsed == target
    assert parsed.host_header == host_header


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with https://"),
        ("example.com/hooks", "must begin with https://"),
        ("//example.com", "must begin with https://"),
        ("ftp://example.com", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("gopher://127.0.0.1:6379/_INFO", "must begin with https://"),
        ("unix:/run/docker.sock", "must begin with https://"),
        ("https://", "neither a name nor an address"),
        ("https:///path", "neither a name nor an address"),
        ("https://a..b/", "neither a name nor an address"),
        ("https://-a.example/", "neither a name nor an address"),
        ("https://exa%6dple.com/", "neither a name nor an address"),
        ("https://" + "a" * 64 + ".example/", "neither a name nor an address"),
        ("https://" + "a." * 127 + "example/", "neither a name nor an address"),
        ("https://☃.example/", "not a valid name"),
        ("https://[::1", "is not a URL"),
        ("https://[example.com]/", "is not a URL|neither a name nor an address"),
        ("https://[fe80::1%25eth0]/", "neither a name nor an address"),
        ("https://example.com:65536/", "is not a URL"),
        ("https://example.com:x/", "is not a URL"),
        ("https://user@example.com/", "no user and no password"),
        ("https://user:word@example.com/", "no user and no password"),
        ("https://example.com@127.0.0.1/", "no user and no password"),
        ("https://@example.com/", "no user and no password"),
        ("https://example.com/#part", "no fragment"),
        ("https://example.com/#", "no fragment"),
        ("https://example.com\\@127.0.0.1/", "no spaces, backslashes or control characters"),
        ("https://example.com/a b", "no spaces, backslashes or control characters"),
        ("https://example.com/\r\nx: y", "no spaces, backslashes or control characters"),
        ("https://127.0.0.1\0.example.com/", "no spaces, backslashes or control characters"),
        ("https://example.com/" + "a" * MAX_URL_LENGTH, "at most 2048 characters"),
        ("https://example.com:22/", "the port 443, 80, or one from 1024"),
        ("https://example.com:0/", "the port 443, 80, or one from 1024"),
        ("https://example.com:1023/", "the port 443, 80, or one from 1024"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://0x7f.0.0.1/", "four decimal numbers"),
        ("https://0177.0.0.1/", "four decimal numbers"),
        ("https://127.0.0.01/", "four decimal numbers"),
        ("https://127.1/", "four decimal numbers"),
        ("https://0/", "four decimal numbers"),
        ("https://0x/", "four decimal numbers"),
        ("https://1.2.3.4.5/", "four decimal numbers"),
        ("https://256.0.0.1/", "four decimal numbers"),
        ("https://127.0.0.1./", "four decimal numbers"),
        ("https://example.0x7f/", "four decimal numbers"),
        ("https://①②⑦.①/", "four decimal numbers"),
    ],
)
def test_a_url_that_could_be_taken_for_another_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_target(url)


@pytest.mark.parametrize(("url", "name"), [("https://example.com./", "example.com"), ("https://[::1]/", "::1")])
def test_the_name_of_a_certificate_has_no_dot_at_its_end_and_no_brackets(url: str, name: str) -> None:
    assert parse_target(url).tls_name == name


@given(st.text(max_size=60), st.sampled_from(["https://", "http://", "https://a.example:", "https://[", ""]))
def test_any_text_is_a_url_in_ascii_or_is_refused(text: str, start: str) -> None:
    try:
        target = parse_target(start + text)
    except ValueError as error:
        assert str(error).startswith(("must ", "is ", "has "))  # noqa: PT017 - any text may be refused
        return
    assert target == Target(target.scheme, target.host.lower(), target.port, target.path)
    assert (target.host + target.path).isascii()
    assert target.path.startswith("/")
    assert parse_target(f"{target.scheme}://{target.host_header}{target.path}") == target
    assert target.is_literal or refusal_of(target.host, ()) == (target.host, False)
