"""How fast a webhook sends: its rate, batches, order, the breaker, and what an outage of its receiver leaves."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from app.main import create_app
from app.settings import Settings
from tests.api.webhooks.calls import (
    NEVER,
    URL,
    attempts,
    change,
    counts,
    create,
    describe,
    events,
    produce,
    settled,
    shows,
)
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.api.webhooks.wall_clock import START_MS, WallClock
from tests.serving import client_of, lifespan
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.api.webhooks.receiver import Post
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    await client.put("/v1/topics/orders", json={"partitions": 1})
    return client


@pytest.fixture
def clock() -> WallClock:
    """The clock of `timed`."""
    return WallClock()


@pytest.fixture
async def timed(sqlite_url: str, clock: WallClock, anyio_backend: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server on SQLite whose clock the test advances."""
    values = {"database_url": sqlite_url, "ballast_bytes": 0} | SETTINGS
    application = create_app(Settings.model_validate(values), wall_ms=clock)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lifespan(application))
        client = await stack.enter_async_context(client_of(application.asgi))
        await client.put("/v1/topics/orders", json={"partitions": 1})
        yield client


async def advance(client: httpx2.AsyncClient, clock: WallClock, ms: int) -> None:
    """Let time pass, and let the worker look at its clock."""
    clock.now_ms += ms
    await change(client, description=str(clock.now_ms))


async def test_a_rate_limit_holds_attempts_back(timed: httpx2.AsyncClient, clock: WallClock) -> None:
    async with receiving() as receiver:
        await create(timed, receiver.url, rate_limit_per_s=2, ordering="none", max_in_flight=64)
        await produce(timed, *({"value": number} for number in range(20)))
        await receiver.received(1)
        begun = len(receiver.posts)
        assert begun <= 2
        for _ in range(2):
            await advance(timed, clock, 1_000)
            await receiver.received(begun + 2)
            begun += 2
            assert len(receiver.posts) == begun
        await change(timed, rate_limit_per_s=None)
        await settled(timed, delivered=20)


async def test_a_batch_has_as_many_records_as_allowed_and_fails_record_by_record(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        receiver.answer = lambda post: Answer(500 if len(post.json["records"]) > 1 else 200)
        await create(
            client, receiver.url, mode="envelope-batch", ordering="partition", max_batch_records=5, paused=True
        )
        await produce(client, *({"value": number} for number in range(7)))
        await change(client, paused=False)
        await settled(client, delivered=7)

    sizes = [len(post.json["records"]) for post in receiver.posts]
    assert max(sizes) == 5
    singles = [post for post in receiver.posts if len(post.json["records"]) == 1]
    assert sorted(post.json["records"][0]["record"]["value"] for post in singles) == list(range(7))
    for post in singles:
        assert post.json["records"][0]["message_id"] == post.message_id


async def test_batches_of_a_partition_are_runs_in_its_order(client: httpx2.AsyncClient) -> None:
    def fail_now_and_then(post: Post) -> Answer:
        values = [each["record"]["value"] for each in post.json["records"]]
        return Answer(500 if len(values) > 1 and 7 in values else 200)

    async with receiving(fail_now_and_then) as receiver:
        await create(
            client,
            receiver.url,
            mode="envelope-batch",
            ordering="partition",
            max_batch_records=5,
            max_in_flight=8,
            retry_delays_ms=[0] * 9,
            paused=True,
        )
        await produce(client, *({"value": number} for number in range(23)))
        await change(client, paused=False)
        await settled(client, delivered=23)

    posted = [[each["record"]["value"] for each in post.json["records"]] for post, _ in receiver.answered]
    accepted = [
        [each["record"]["value"] for each in post.json["records"]] for post, at in receiver.answered if at == 200
    ]
    assert [value for values in accepted for value in values] == list(range(23))
    assert posted[:3] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [5]]
    assert posted[-1] == [20, 21, 22]


async def test_a_record_with_a_delay_ends_the_run_before_it(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, mode="envelope-batch", ordering="partition", paused=True)
        due_ms = (await describe(client))["created_at_ms"] + 1_500
        later = {"value": 2, "headers": {"deliver_at_ms": str(due_ms)}}
        await produce(client, {"value": 0}, {"value": 1}, later, {"value": 3}, {"value": 4})
        await change(client, paused=False)
        await settled(client, delivered=5)

    posted = [[each["record"]["value"] for each in post.json["records"]] for post in receiver.posts]
    assert [value for values in posted for value in values] == list(range(5))


@pytest.mark.parametrize("ordering", ["key", "partition"])
async def test_records_come_in_order_though_attempts_fail(client: httpx2.AsyncClient, ordering: str) -> None:
    seen: set[str] = set()

    def fail_once(post: Post) -> Answer:
        first = post.message_id not in seen
        seen.add(post.message_id)
        return Answer(500 if first else 200)

    async with receiving(fail_once) as receiver:
        await create(client, receiver.url, ordering=ordering, max_in_flight=8, retry_delays_ms=[1] * 9)
        await produce(client, *({"key": "ab"[number % 2], "value": number} for number in range(10)))
        await settled(client, delivered=10)

    accepted = [post.json for post, status in receiver.answered if status == 200]
    assert [number for number in accepted if number % 2] == [1, 3, 5, 7, 9]
    assert [number for number in accepted if not number % 2] == [0, 2, 4, 6, 8]
    if ordering == "partition":
        assert accepted == list(range(10))
        assert receiver.at_once == 1


async def test_one_key_that_always_fails_holds_only_itself_up(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(500 if post.headers["millrace-key"] == "stuck" else 200)) as receiver:
        await create(client, receiver.url, max_in_flight=1, retry_delays_ms=NEVER)
        keys = ["stuck" if number % 3 else f"k{number}" for number in range(90)]
        await produce(client, *({"key": key, "value": 1} for key in keys))
        await until(lambda: counts(client), lambda found: found["delivered"] == 30)
        found = await counts(client)

    assert (found["retrying"], found["waiting"]) == (1, 59)
    assert len([post for post in receiver.posts if post.headers["millrace-key"] == "stuck"]) == 1


async def test_an_open_breaker_lets_one_probe_pass_after_30_s_and_closes_when_it_is_delivered(
    timed: httpx2.AsyncClient, clock: WallClock
) -> None:
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(timed, receiver.url, ordering="none", max_in_flight=1, retry_delays_ms=NEVER)
        await produce(timed, *({"value": number} for number in range(20)))
        await until(lambda: counts(timed), lambda found: (found["in_flight"], found["retrying"]) == (0, 10))
        await advance(timed, clock, 29_999)
        assert len(receiver.posts) == 10
        await advance(timed, clock, 1)
        await receiver.received(11)
        await until(lambda: counts(timed), lambda found: found["in_flight"] == 0)
        assert (await counts(timed))["retrying"] == 10, "the probe is not charged"
        await advance(timed, clock, 59_000)
        assert len(receiver.posts) == 11
        receiver.answer = lambda _: Answer()
        await advance(timed, clock, 1_000)
        await until(lambda: counts(timed), lambda found: found["delivered"] == 9)
        await shows(timed, breaker="closed")
        happened = [(each["type"], each["at_ms"] - START_MS) for each in await events(timed)]

    assert happened == [
        ("webhook.breaker_opened", 0),
        ("webhook.breaker_opened", 30_000),
        ("webhook.breaker_closed", 90_000),
    ]


async def test_five_days_of_failures_disable_until_it_is_enabled(timed: httpx2.AsyncClient, clock: WallClock) -> None:
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(timed, receiver.url, retry_delays_ms=[])
        await produce(timed, {"value": 1})
        await settled(timed, dropped=1)
        clock.now_ms += 5 * DAY_MS
        await produce(timed, {"value": 2})
        found = await shows(timed, status="disabled", disabled_reason="nothing but failures for five days")
        assert found["disabled_at_ms"] == START_MS + 5 * DAY_MS
        await until(lambda: counts(timed), lambda each: (each["waiting"], each["in_flight"]) == (1, 0))
        assert [each["type"] for each in await events(timed)] == ["record.exhausted", "webhook.disabled"]
        receiver.answer = lambda _: Answer()
        await change(timed, paused=False)
        await settled(timed, dropped=1, delivered=1)


async def test_a_hold_that_a_receiver_asked_for_ends(timed: httpx2.AsyncClient, clock: WallClock) -> None:
    async with receiving(lambda _: Answer(429, ("Retry-After: 60",))) as receiver:
        await create(timed, receiver.url, ordering="none", max_in_flight=1, retry_delays_ms=NEVER)
        await produce(timed, {"value": 1}, {"value": 2})
        await receiver.received(1)
        receiver.answer = lambda _: Answer()
        await until(lambda: counts(timed), lambda found: (found["retrying"], found["in_flight"]) == (1, 0))
        await advance(timed, clock, 59_000)
        assert len(receiver.posts) == 1
        await advance(timed, clock, 1_000)
        await until(lambda: counts(timed), lambda found: found["delivered"] == 1)


async def test_a_hold_ends_though_a_retry_is_due_much_later(client: httpx2.AsyncClient) -> None:
    answers = iter([Answer(500), Answer(503, ("Retry-After: 1",))])
    async with receiving(lambda _: next(answers, Answer())) as receiver:
        await create(client, receiver.url, ordering="none", max_in_flight=1, retry_delays_ms=NEVER)
        await produce(client, {"value": 1})
        await until(lambda: counts(client), lambda found: (found["retrying"], found["in_flight"]) == (1, 0))
        await produce(client, {"value": 2}, {"value": 3})
        await until(lambda: counts(client), lambda found: found["delivered"] == 1)

    assert [post.json for post in receiver.posts] == [1, 2, 3]


async def test_attempts_are_found_by_outcome_and_record_and_in_pages(client: httpx2.AsyncClient) -> None:
    answers = iter([500, 404])
    async with receiving(lambda _: Answer(next(answers, 200), ("X-Why: full", "Set-Cookie: a=1"), b"\xff")) as receiver:
        await create(client, receiver.url, retry_delays_ms=[1, 1], max_in_flight=1)
        await produce(client, {"value": 1}, {"value": 2})
        await settled(client, delivered=2)
        found = await attempts(client, 4)
        await attempts(client, 2, outcome="failed")
        await attempts(client, 2, outcome="delivered")
        await attempts(client, 4, topic="orders", partition=0)
        await attempts(client, 0, topic="orders", partition=1)
        await attempts(client, 0, topic="invoices")
        first = (await client.get(f"{URL}/attempts", params={"limit": 3})).json()
        rest = (await client.get(f"{URL}/attempts", params={"limit": 3, "cursor": first["next_cursor"]})).json()
        of_first = await attempts(client, len([each for each in found if each["offset"] == 0]), offset=0)

    assert (first["items"], rest["items"], rest["next_cursor"]) == (found[:3], found[3:], None)
    assert {each["offset"] for each in of_first} == {0}
    failed = [each for each in found if each["outcome"] == "failed"]
    assert sorted(each["status"] for each in failed) == [404, 500]
    for each in failed:
        assert ["x-why", "full"] in each["response_headers"]
        assert "set-cookie" not in dict(each["response_headers"])
        assert each["response_body"] == "base64:/w=="
        assert each["next_attempt_at_ms"] >= each["at_ms"]
    assert (await client.get(f"{URL}/attempts", params={"cursor": "!"})).status_code == 400
    assert (await client.get(f"{URL}/attempts", params={"outcome": "lost"})).status_code == 422
    assert (await client.get("/v1/webhooks/missing/attempts")).status_code == 404


async def test_a_step_of_the_clock_ahead_delays_no_delivery(timed: httpx2.AsyncClient, clock: WallClock) -> None:
    async with receiving() as receiver:
        await create(timed, receiver.url)
        clock.now_ms += 300_000
        await produce(timed, *({"value": number} for number in range(3)))
        await settled(timed, delivered=3)


async def test_a_step_of_the_clock_back_makes_no_pause_longer(timed: httpx2.AsyncClient, clock: WallClock) -> None:
    async with receiving(lambda _: Answer(503, ("Retry-After: 60",))) as receiver:
        await create(timed, receiver.url, ordering="none", retry_delays_ms=NEVER)
        await produce(timed, {"value": 1})
        await attempts(timed, 1)
        await advance(timed, clock, -3_600_000)
        await produce(timed, {"value": 2})
        receiver.answer = lambda _: Answer()
        await advance(timed, clock, 61_000)
        assert (await receiver.received(2))[1].body == b"2"
