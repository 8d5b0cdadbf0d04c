"""What an attempt came to: delivered, failed, timed out, blocked, or not sent because of a fault on this side."""

from __future__ import annotations

import time

import pytest

from app.broker.outbound.egress import Egress
from app.broker.outbound.exchange import (
    Headers,
    NotSent,
    Response,
    SendBlocked,
    SendFailed,
    SendTimedOut,
    SendUnresolved,
)
from app.broker.webhooks.deliveries.sender import Receiver, Sender, Sent
from app.broker.webhooks.keys import SigningKeys
from app.domain.webhooks.message import ping
from tests.broker.node import Clock

pytestmark = pytest.mark.anyio

NOW_MS = 1_700_000_000_123
SECRETS = SigningKeys("hmac", (b"x" * 24,))


class Internet:
    """Answers or fails by host."""

    def __init__(self, **outcomes: Response | SendFailed) -> None:
        self.outcomes = outcomes
        self.sent: list[tuple[str, dict[bytes, bytes], bytes, float]] = []

    async def post(self, url: str, headers: Headers, body: bytes, timeout_s: float) -> Response:
        self.sent.append((url, dict(headers), body, timeout_s))
        outcome = self.outcomes[url.removeprefix("https://")]
        if isinstance(outcome, SendFailed):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Nothing is open."""


def answer(status: int, *headers: tuple[bytes, bytes], body: bytes = b"") -> Response:
    return Response(status, headers, body)


async def send(sender: Sender, host: str) -> Sent:
    receiver = Receiver("billing", f"https://{host}", 1_000, {"X-Team": "billing"}, SECRETS, "a" * 16)
    return await sender.send(receiver, ping(1, "billing", 1), NOW_MS)


@pytest.mark.parametrize(
    ("outcome", "expected", "status", "is_charged"),
    [
        (answer(200, body=b"ok"), "delivered", 200, True),
        (answer(299), "delivered", 299, True),
        (answer(302, (b"Location", b"http://169.254.169.254/")), "failed", 302, True),
        (answer(410), "failed", 410, True),
        (SendFailed("the connection was reset"), "failed", None, True),
        (SendUnresolved("the host name has no address"), "failed", None, True),
        (SendTimedOut("no complete answer"), "timed_out", None, True),
        (SendBlocked("private"), "blocked", None, True),
        (NotSent("no resolver"), "not_sent", None, False),
    ],
)
async def test_an_attempt_has_an_outcome(
    outcome: Response | SendFailed, expected: str, status: int | None, is_charged: bool
) -> None:
    sent = await send(Sender(lambda: Internet(shop=outcome), Egress(Clock())), "shop")

    assert (sent.outcome, sent.status, sent.is_charged) == (expected, status, is_charged)
    assert (sent.error is None) is (expected == "delivered")


async def test_each_attempt_is_signed_for_its_time_and_names_its_webhook() -> None:
    internet = Internet(shop=answer(200))
    await send(Sender(lambda: internet, Egress(Clock())), "shop")

    ((_, headers, body, timeout_s),) = internet.sent
    message = ping(1, "billing", 1)
    assert (body, timeout_s) == (message.body, 1.0)
    assert headers[b"webhook-id"] == message.message_id.encode()
    assert headers[b"webhook-timestamp"] == b"1700000000"
    assert headers[b"webhook-signature"] == SECRETS.sign(message.message_id, 1_700_000_000, message.body)
    assert headers[b"millrace-webhook"] == b"billing"
    assert headers[b"X-Team"] == b"billing"


async def test_what_is_kept_of_an_answer_has_no_cookies_and_a_body_only_if_it_failed() -> None:
    failed = answer(500, (b"X-Reason", b"full"), (b"Set-Cookie", b"a=1"), (b"SET-COOKIE2", b"a=1"), body=b"no")
    sender = Sender(lambda: Internet(shop=failed, bank=answer(200, body=b"yes")), Egress(Clock()))

    sent = await send(sender, "shop")
    assert (list(sent.headers), sent.body) == ([("x-reason", "full")], b"no")
    assert (await send(sender, "bank")).body is None


async def test_a_record_that_makes_too_many_headers_is_not_posted_and_fails() -> None:
    internet = Internet(shop=answer(200))
    sender = Sender(lambda: internet, Egress(Clock()))
    receiver = Receiver("billing", "https://shop", 1_000, {}, SECRETS, "mark")
    message = ping(1, "billing", 1)

    for value, expected in ((b"x" * (16 * 1024 - 6), "delivered"), (b"x" * (16 * 1024 - 5), "failed")):
        sent = await sender.send(receiver, message._replace(headers=[(b"ce-big", value)]), NOW_MS)
        assert (sent.outcome, sent.is_charged) == (expected, True)

    assert sent.error == (
        "not posted: the record makes 16385 bytes of headers, and at most 16384 are sent; "
        "another mode has them in the body"
    )
    assert len(internet.sent) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"120", 120_000),
        (b"Tue, 14 Nov 2023 22:15:00 GMT", 100_000 - 123),
        (b"Tue, 14 Nov 2023 22:00:00 GMT", 0),
        (b"soon", 0),
        (b"-1", 0),
        (b"\xff\xfe", 0),
        (b"Tue, 99 Nov 99999 99:99:99 GMT", 0),
    ],
)
async def test_retry_after_is_read_in_both_forms(value: bytes, expected: int) -> None:
    busy = answer(503, (b"Retry-After", value))

    assert (await send(Sender(lambda: Internet(shop=busy), Egress(Clock())), "shop")).requested_ms == expected


@pytest.mark.parametrize("value", [b"Tue, 14 Nov 2023 22:15:00", b"Tue, 14 Nov 2023 22:15:00 -0000"])
async def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch, value: bytes) -> None:
    busy = answer(503, (b"Retry-After", value))
    try:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            sent = await send(Sender(lambda: Internet(shop=busy), Egress(Clock())), "shop")
    finally:
        time.tzset()

    assert sent.requested_ms == 100_000 - 123


async def test_three_silent_hosts_are_a_fault_of_this_side_until_one_answers() -> None:
    silent = SendFailed("no connection could be made")
    internet = Internet(a=silent, b=SendTimedOut("late"), c=silent, d=answer(500))
    sender = Sender(lambda: internet, Egress(Clock()))

    outcomes = [(await send(sender, host)).outcome for host in ("a", "a", "b", "c", "a", "d", "a")]
    assert outcomes == ["failed", "failed", "timed_out", "not_sent", "not_sent", "failed", "failed"]


async def test_hosts_that_were_silent_more_than_a_minute_ago_are_not_counted() -> None:
    silent, clock = SendFailed("no connection could be made"), Clock()
    sender = Sender(lambda: Internet(a=silent, b=silent, c=silent), Egress(clock))

    await send(sender, "a")
    clock.advance(60_000)
    assert [(await send(sender, host)).outcome for host in ("b", "c")] == ["failed", "failed"]
    assert (await send(sender, "a")).outcome == "not_sent"


async def test_names_without_an_address_are_the_fault_of_their_receivers() -> None:
    unknown = SendUnresolved("the host name has no address")
    sender = Sender(lambda: Internet(a=unknown, b=unknown, c=unknown, d=unknown), Egress(Clock()))

    assert [(await send(sender, host)).outcome for host in ("a", "b", "c", "d")] == ["failed"] * 4
