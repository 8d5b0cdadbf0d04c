"""What a receiver gets, and what becomes of records that it does not accept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from tests.api.webhooks.calls import NEVER, URL, attempts, counts, create, produce, settled
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    await client.put("/v1/topics/orders", json={"partitions": 1})
    return client


async def test_a_record_arrives_signed_and_with_its_place(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        secret = (await create(client, receiver.url, headers={"X-Team": "billing"}))["secret"]
        headers = [{"name": "trace", "value": "a b"}, {"name": "traceparent", "value": "00-1-2-01"}]
        await produce(client, {"key": "ann", "value": {"total": 12.50}, "headers": headers})
        (post,) = await receiver.received(1)
        await settled(client, delivered=1)

    assert post.body == b'{"total": 12.5}'.replace(b" ", b"")
    Webhook(secret).verify(post.body, post.headers)
    expected = {
        "content-type": "application/json",
        "millrace-topic": "orders",
        "millrace-partition": "0",
        "millrace-offset": "0",
        "millrace-key": "ann",
        "millrace-header-trace": "a%20b",
        "millrace-webhook": "billing",
        "traceparent": "00-1-2-01",
        "x-team": "billing",
        "accept-encoding": "identity",
    }
    assert {name: post.headers.get(name) for name in expected} == expected
    assert post.headers["user-agent"].startswith("Millrace/")


async def test_a_failed_record_comes_again_with_its_id_and_holds_only_its_key_up(client: httpx2.AsyncClient) -> None:
    failures = iter([True, True])
    async with receiving(lambda post: Answer(500 if post.json == 1 and next(failures, False) else 200)) as receiver:
        await create(client, receiver.url)
        await produce(client, {"key": "a", "value": 1}, {"key": "a", "value": 2}, {"key": "b", "value": 3})
        await receiver.received(5)
        await settled(client, delivered=3)
        found = await attempts(client, 5)

    of_first = [post for post in receiver.posts if post.json == 1]
    assert len({post.message_id for post in of_first}) == 1
    assert len({post.headers["webhook-timestamp"] + post.headers["webhook-signature"] for post in of_first}) >= 1
    assert [post.json for post in receiver.posts if post.json != 3] == [1, 1, 1, 2]
    assert [each["attempt"] for each in reversed(found) if each["offset"] == 0] == [1, 2, 3]
    assert {each["outcome"] for each in found} == {"failed", "delivered"}
    failed = (await client.get(f"{URL}/attempts", params={"outcome": "failed", "limit": 1})).json()
    assert len(failed["items"]) == 1
    rest = await client.get(f"{URL}/attempts", params={"outcome": "failed", "cursor": failed["next_cursor"]})
    assert [each["offset"] for each in rest.json()["items"]] == [0]


@pytest.mark.parametrize(
    ("mode", "content_type"),
    [
        ("record", "application/json"),
        ("envelope", "application/json"),
        ("envelope-batch", "application/json"),
        ("cloudevents-binary", "application/json"),
        ("cloudevents-structured", "application/cloudevents+json"),
        ("cloudevents-batch", "application/cloudevents-batch+json"),
    ],
)
async def test_each_mode_has_its_body(client: httpx2.AsyncClient, mode: str, content_type: str) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, mode=mode)
        await produce(client, {"key": "ann", "value": {"n": 1}})
        (post,) = await receiver.received(1)

    assert post.headers["content-type"] == content_type
    body = post.json
    if mode.endswith("batch"):
        (body,) = body["records"] if mode == "envelope-batch" else body
    if mode.startswith("envelope"):
        assert (body["record"]["topic"], body["record"]["offset"], body["record"]["value"]) == ("orders", 0, {"n": 1})
    elif mode in {"record", "cloudevents-binary"}:
        assert body == {"n": 1}
    else:
        assert (body["source"], body["partitionkey"], body["data"]) == ("/topics/orders/partitions/0", "ann", {"n": 1})
    if mode == "cloudevents-binary":
        assert post.headers["ce-type"] == "millrace.record"


async def test_records_that_the_filter_refuses_are_passed_over(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(
            client, receiver.url, filter={"all": [{"value": "/n", "gt": 1}, {"not": {"key": True, "equals": "x"}}]}
        )
        await produce(
            client, {"value": {"n": 1}}, {"value": {"n": 2}}, {"key": "x", "value": {"n": 3}}, {"value": "text"}
        )
        await settled(client, delivered=1, filtered=3)

    assert [post.json for post in receiver.posts] == [{"n": 2}]


async def test_as_many_attempts_are_under_way_as_the_webhook_allows(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        receiver.open.clear()
        await create(client, receiver.url, ordering="none", max_in_flight=3)
        await produce(client, *({"value": number} for number in range(20)))
        await receiver.received(3)
        await until(lambda: counts(client), lambda found: found["in_flight"] >= 3)
        receiver.open.set()
        await settled(client, delivered=20)

    assert receiver.at_once == 3


async def test_an_exhausted_record_becomes_a_dead_letter_that_can_be_sent_again(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(500 if post.json == 1 else 200)) as receiver:
        await create(client, receiver.url, on_exhausted="dead_letter", dead_letter_topic="dead", retry_delays_ms=[])
        await produce(client, {"key": "a", "value": 1}, {"key": "a", "value": 2})
        await settled(client, delivered=1, dead_lettered=1)
        letters = (await client.get("/v1/topics/dead/records")).json()["records"]
        assert [(letter["key"], letter["value"]) for letter in letters] == [("a", 1)]
        events = (await client.get("/v1/topics/__webhook_events/records")).json()["records"]
        assert [(each["key"], each["value"]["type"], each["value"]["offset"]) for each in events] == [
            ("billing", "record.exhausted", 0)
        ]

        receiver.answer = lambda _: Answer()
        planned = (await client.post(f"{URL}/redrive", json={"dry_run": True})).json()
        assert planned["records"] == 1
        redriven = await client.post(f"{URL}/redrive", json={"dry_run": False})
        assert redriven.status_code == 202
        posts = await receiver.received(3)

    assert posts[2].message_id == posts[0].message_id
    assert posts[2].place == (0, 0)


async def test_an_exhausted_record_can_be_dropped_or_pause_the_webhook(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda _: Answer(400)) as receiver:
        await create(client, receiver.url, retry_delays_ms=[], max_in_flight=1)
        await produce(client, {"value": 1})
        await settled(client, dropped=1)
        await client.patch(URL, json={"on_exhausted": "pause"})
        await produce(client, {"value": 2}, {"value": 3})

        async def status() -> str:
            return str((await client.get(URL)).json()["status"])

        assert await until(status, lambda found: found == "paused") == "paused"
        receiver.answer = lambda _: Answer()
        await client.patch(URL, json={"paused": False})
        await settled(client, delivered=2, dropped=1)


async def test_gone_disables_a_webhook_until_it_is_enabled(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda _: Answer(410)) as receiver:
        await create(client, receiver.url)
        await produce(client, {"value": 1})

        async def status() -> str:
            return str((await client.get(URL)).json()["status"])

        await until(status, lambda found: found == "disabled")
        described = (await client.get(URL)).json()
        assert described["disabled_reason"] == "the receiver answered 410 Gone"
        assert described["disabled_at_ms"] > 0
        assert described["counts"]["waiting"] == 1
        receiver.answer = lambda _: Answer()
        await client.patch(URL, json={"paused": False})
        await settled(client, delivered=1)


async def test_retry_after_holds_the_whole_webhook(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda _: Answer(503, ("Retry-After: 3600",))) as receiver:
        await create(client, receiver.url, ordering="none", max_in_flight=1, retry_delays_ms=NEVER)
        await produce(client, {"value": 1}, {"value": 2})
        (found,) = await attempts(client, 1)
        await until(lambda: counts(client), lambda each: (each["retrying"], each["waiting"]) == (1, 1))
        assert len(receiver.posts) == 1
        assert found["next_attempt_at_ms"] - found["at_ms"] > 3_500_000


async def test_most_attempts_that_fail_open_the_breaker(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(client, receiver.url, ordering="none", max_in_flight=1, retry_delays_ms=NEVER)
        await produce(client, *({"value": number} for number in range(30)))

        async def breaker() -> str:
            return str((await client.get(URL)).json()["breaker"])

        await until(breaker, lambda found: found == "open")
        await until(lambda: counts(client), lambda found: found["in_flight"] == 0)
        assert 10 <= len(receiver.posts) <= 11
        found = await counts(client)
        assert found["retrying"] + found["waiting"] == 30


async def test_a_replay_sends_exactly_a_range_again(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url)
        await produce(client, *({"key": "a", "value": number} for number in range(10)))
        await settled(client, delivered=10)
        before = {post.place: post.message_id for post in receiver.posts}
        plan = {"topic": "orders", "from": "3", "to": "7", "partition": 0}
        assert (await client.post(f"{URL}/replay", json=plan)).json()["records"] == 4
        assert len(receiver.posts) == 10
        begun = await client.post(f"{URL}/replay", json=plan | {"dry_run": False})
        assert begun.status_code == 202
        await produce(client, {"key": "b", "value": "live"})

        async def replay() -> Any:
            return (await client.get(f"{URL}/replays/{begun.json()['replay_id']}")).json()

        done = await until(replay, lambda found: found["status"] == "done")
        assert (done["delivered"], done["failed"]) == (4, 0)
        await receiver.received(15)

    again = [post for post in receiver.posts[10:] if post.json != "live"]
    assert [post.json for post in again] == [3, 4, 5, 6]
    assert [before[post.place] for post in again] == [post.message_id for post in again]


async def test_one_record_is_sent_again_whatever_became_of_it(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, filter={"value": "/n", "equals": 2})
        await produce(client, {"value": {"n": 2}})
        await settled(client, delivered=1)
        place = {"topic": "orders", "partition": 0, "offset": 0}
        assert (await client.post(f"{URL}/redeliver", json=place)).status_code == 202
        assert (await client.post(f"{URL}/redeliver", json=place | {"offset": 9})).status_code == 404
        posts = await receiver.received(2)

    assert posts[0].message_id == posts[1].message_id


async def test_a_skip_passes_over_what_waits_and_what_is_retried(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(client, receiver.url, max_in_flight=1, retry_delays_ms=NEVER)
        await produce(client, *({"key": "a", "value": number} for number in range(5)))
        await until(lambda: counts(client), lambda found: found["retrying"] == 1)
        plan = (await client.post(f"{URL}/skip", json={"topic": "orders", "to": "4"})).json()
        assert (plan["dry_run"], plan["records"], plan["partitions"][0]["to_offset"]) == (True, 4, 4)
        receiver.answer = lambda _: Answer()
        done = (await client.post(f"{URL}/skip", json={"topic": "orders", "to": "4", "dry_run": False})).json()
        assert done["records"] == 4
        await settled(client, delivered=1)
        assert receiver.posts[-1].json == 4
        assert (await client.post(f"{URL}/skip", json={"topic": "missing"})).status_code == 404


async def test_a_webhook_starts_at_the_end_unless_it_says_otherwise(client: httpx2.AsyncClient) -> None:
    await produce(client, {"value": 1}, {"value": 2})
    async with receiving() as receiver:
        await create(client, receiver.url, start="-1")
        await produce(client, {"value": 3})
        posts = await receiver.received(2)

    assert sorted(post.json for post in posts) == [2, 3]


async def test_a_pause_settles_what_was_delivered_and_gives_the_rest_back(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, ordering="none")
        await produce(client, *({"value": number} for number in range(200)))
        await receiver.received(20)
        await client.patch(URL, json={"paused": True})
        await until(lambda: counts(client), lambda found: found["in_flight"] == 0)
        found = await counts(client)

    assert found["delivered"] == len(receiver.posts)
    assert found["delivered"] + found["waiting"] == 200


async def test_a_webhook_that_posts_to_a_source_of_its_topic_ends(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/back", json={"partitions": 1})
    made = await client.put("/v1/sources/back", json={"topic": "back", "verify": {"scheme": "none"}})
    url = made.json()["delivery_url"]

    async with receiving() as receiver:
        await create(client, receiver.url, topics=["orders", "back"])
        await client.put("/v1/webhooks/other", json={"url": receiver.url, "topics": ["back"]})
        await produce(client, {"key": "a", "value": 1})
        (first,) = await receiver.received(1)
        assert (await client.post(url, content=first.body, headers=first.headers)).status_code == 200
        (_, second) = await receiver.received(2)
        assert (await client.post(url, content=second.body, headers=second.headers)).status_code == 200
        await settled(client, delivered=1, filtered=2)

    assert (first.headers["millrace-webhook"], second.headers["millrace-webhook"]) == ("billing", "other")
    assert second.headers["millrace-via"].split(",")[0] == first.headers["millrace-via"]
    assert len(receiver.posts) == 2


async def test_a_source_refuses_what_has_passed_many_webhooks(client: httpx2.AsyncClient) -> None:
    made = await client.put("/v1/sources/back", json={"topic": "orders", "verify": {"scheme": "none"}})
    marks = [f"{letter}{letter}aaaaaaaaaaaaaa" for letter in "abcdefghijklmnopqrstuvwxyz234567"]

    async def status(value: str) -> int:
        answer = await client.post(made.json()["delivery_url"], content=b"x", headers={"millrace-via": value})
        return answer.status_code

    assert [await status(",".join(each)) for each in (marks, [*marks, "abcdefghabcdefgh"])] == [200, 400]
    assert await status("not a mark") == 200
