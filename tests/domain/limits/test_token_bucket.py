"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.limits import token_bucket
from app.domain.limits.token_bucket import Bucket


def test_a_bucket_holds_one_second_of_its_rate() -> None:
    bucket = token_bucket.full(100, now_ms=0)

    assert bucket == Bucket(100_000, 0)
    assert token_bucket.refill(bucket, 100, 60_000) == Bucket(100_000, 60_000)


def test_a_debt_is_repaid_at_the_rate() -> None:
    bucket = token_bucket.take(token_bucket.full(1_000, now_ms=0), 5_000)

    assert token_bucket.wait_ms(bucket, 1_000, 1) == 4_001
    later = token_bucket.refill(bucket, 1_000, 4_001)
    assert token_bucket.wait_ms(later, 1_000, 1) == 0


def test_a_clock_that_goes_back_adds_nothing() -> None:
    bucket = token_bucket.take(token_bucket.full(10, now_ms=1_000), 10)

    assert token_bucket.refill(bucket, 10, 500).tokens == 0


@given(
    st.integers(1, 10**9), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10**7)), min_size=1, max_size=50)
)
def test_what_is_admitted_is_at_most_the_rate_and_one_request_more(per_s: int, requests: list[tuple[int, int]]) -> None:
    bucket, now_ms, taken, last = token_bucket.full(per_s, 0), 0, 0, 0
    for pause_ms, size in requests:
        now_ms += pause_ms
        bucket = token_bucket.refill(bucket, per_s, now_ms)
        if token_bucket.wait_ms(bucket, per_s, 1) == 0:
            bucket, taken, last = token_bucket.take(bucket, size), taken + size, size
    assert (taken - last) * 1_000 <= per_s * (1_000 + now_ms)


@given(st.integers(1, 10**9), st.integers(0, 10**10))
def test_after_the_wait_the_tokens_are_there(per_s: int, taken: int) -> None:
    bucket = token_bucket.take(token_bucket.full(per_s, 0), taken)

    wait = token_bucket.wait_ms(bucket, per_s, 1)

    assert token_bucket.refill(bucket, per_s, wait).tokens >= 1
    assert wait == 0 or token_bucket.refill(bucket, per_s, wait - 1).tokens < 1
