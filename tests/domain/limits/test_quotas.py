"""Quotas of principals."""

from __future__ import annotations

import pytest

from app.domain.limits.quotas import Limit, Quota, QuotaKind, Quotas, client_key, quotas_of


def admit(quotas: Quotas, principal: str, kind: QuotaKind, now_ms: int = 0) -> tuple[str, int] | None:
    return quotas.account(principal, kind, now_ms).admit(now_ms)


def test_requests_beyond_the_rate_wait() -> None:
    quotas = Quotas(Quota(produce_requests_per_s=2), {})

    answers = [admit(quotas, "app", "produce", now_ms) for now_ms in (0, 0, 0, 499, 500)]

    assert answers == [None, None, ("produce-requests", 500), ("produce-requests", 1), None]


def test_a_request_larger_than_the_rate_is_served_and_the_next_one_waits() -> None:
    account = Quotas(Quota(produce_bytes_per_s=1_000), {}).account("app", "produce", 0)

    assert account.admit(0) is None
    assert account.charge(3_000, 0) == 2_001
    assert account.admit(2_000) == ("produce-bytes", 1)
    assert account.admit(2_001) is None


def test_principals_and_kinds_have_accounts_of_their_own() -> None:
    quotas = Quotas(Quota(produce_requests_per_s=1, fetch_requests_per_s=1), {})

    assert admit(quotas, "app", "produce") is None
    assert admit(quotas, "app", "fetch") is None
    assert admit(quotas, "other", "produce") is None
    assert admit(quotas, "app", "produce") is not None


def test_a_principal_can_have_another_quota() -> None:
    quotas = Quotas(Quota(fetch_requests_per_s=1), {"importer": Quota()})

    assert {admit(quotas, "importer", "fetch") for _ in range(1_000)} == {None}
    assert [admit(quotas, "app", "fetch") is None for _ in range(2)] == [True, False]


def test_the_client_sees_what_is_left_and_when_it_is_whole_again() -> None:
    quotas = Quotas(Quota(fetch_requests_per_s=10, fetch_bytes_per_s=1_000), {})
    account = quotas.account("app", "fetch", 0)
    account.admit(0)
    account.charge(2_500, 0)

    assert account.limits == [Limit("fetch-requests", "requests", 10), Limit("fetch-bytes", "content-bytes", 1_000)]
    assert account.left(0) == (9, 1, 0, 3)
    assert account.left(2_000) == (10, 0, 500, 1)
    assert quotas.account("app", "produce", 0).limits == []
    assert quotas.account("app", "produce", 0).left(0) == ()


def test_without_a_limit_there_are_no_accounts() -> None:
    assert quotas_of(Quota(), {}) is None
    assert quotas_of(Quota(), {"app": Quota()}) is None
    assert quotas_of(Quota(), {"app": Quota(fetch_bytes_per_s=1)}) is not None


def test_the_accounts_that_were_used_longest_ago_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.domain.limits.quotas.MOST_ACCOUNTS", 2)
    quotas = Quotas(Quota(produce_requests_per_s=1), {})
    for name in ("a", "b", "a", "c"):
        admit(quotas, name, "produce")

    assert admit(quotas, "a", "produce") is not None
    assert admit(quotas, "b", "produce") is None


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown:text", "unknown:text"),
        ("", ""),
    ],
)
def test_addresses_of_one_ipv6_network_count_as_one(address: str, key: str) -> None:
    assert client_key(address) == key
