"""What a webhook sends: the records that are ready, the attempts under way, and how many more may begin."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from app.broker.outbound.egress import Egress
from app.broker.webhooks.deliveries.feeds import OnItsWay
from app.broker.webhooks.deliveries.holding import HeldMemory, Lease
from app.broker.webhooks.deliveries.sender import Receiver, Sender, Sent
from app.broker.webhooks.deliveries.settling import Verdicts
from app.broker.webhooks.webhook_queues import AHEAD
from app.domain.webhooks import pace
from app.domain.webhooks.breaker import BreakerState
from app.domain.webhooks.pace import Bucket, Pace
from app.domain.webhooks.webhook import WebhookInfo

_CUT_OFF_MS = 5_000

Note = Callable[[list[OnItsWay], Sent, bool], None]
"""Takes a batch, what came back, and whether the attempt was a probe."""


class Sending:
    """Sends batches of records, as many at once as the webhook, its breaker and its receiver allow.

    Args:
        sender: Sends an attempt.
        egress: Whether any server answers.
        verdicts: The state of the webhook.
        clock_ms: The clock of the log.
        note: Called with the end of each attempt.
        lease: Whether this node still holds the webhook.
        memory: What the records of all webhooks hold.

    Attributes:
        in_flight: Attempts under way, those of replays included.
        held: Records that are ready or under way.
        retry_at_ms: When the next attempt begins while no server answers.
    """

    def __init__(
        self,
        sender: Sender,
        egress: Egress,
        verdicts: Verdicts,
        clock_ms: Callable[[], int],
        note: Note,
        lease: Lease,
        memory: HeldMemory,
    ) -> None:
        self._sender = sender
        self._lease = lease
        self._memory = memory
        self._held_bytes = 0
        self._egress = egress
        self._verdicts = verdicts
        self._clock_ms = clock_ms
        self._note = note
        self._info: WebhookInfo | None = None
        self._receiver: Receiver | None = None
        self._ready: deque[list[OnItsWay]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._other: asyncio.Future[None] | None = None
        self._bucket = Bucket(1.0, 0)
        self.in_flight = 0
        self.held = 0
        self.retry_at_ms = 0

    @property
    def ready(self) -> int:
        """The number of batches that wait for an attempt."""
        return len(self._ready)

    @property
    def is_probing(self) -> bool:
        """Whether the breaker is not closed: an attempt is a probe, and charges no record."""
        return not self._is_closed(self._clock_ms())

    def configure(self, info: WebhookInfo, receiver: Receiver | None) -> None:
        """Use another configuration from the next attempt on; without a receiver nothing is sent."""
        self._info, self._receiver = info, receiver

    def add(self, batches: Sequence[list[OnItsWay]]) -> None:
        """Send batches as soon as there is room."""
        for batch in batches:
            self._hold(batch, 1)
        self._ready.extend(batches)
        self.begin()

    def begin(self) -> None:
        """Begin as many attempts as may begin now."""
        while (batch := self._next()) is not None:
            task = asyncio.create_task(self._send_in_turn(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def take_back(self) -> list[OnItsWay]:
        """Return the records that are ready, and forget them."""
        taken = [each for batch in self._ready for each in batch]
        self._hold(taken, -1)
        self._ready.clear()
        return taken

    def take_back_held(self) -> list[OnItsWay]:
        """Return the records that are ready, and forget them, if nothing may be sent for a while.

        Those whose lock does not last for an attempt are taken back too.
        """
        now_ms = self._clock_ms()
        if not self._ready or (self._may_send(now_ms) and self._is_closed(now_ms) and self._has_time(self._ready[0])):
            return []
        return self.take_back()

    async def stop(self) -> None:
        """Begin no attempt any more, break all off, and wait until their connections are closed."""
        self._receiver = None
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self) -> None:
        """Forget all records, so that other webhooks may use their memory. Nothing may be under way."""
        self._ready.clear()
        self._memory.bytes -= self._held_bytes
        self._held_bytes = self.held = 0

    async def begin_other(self) -> None:
        """Wait until an attempt of a replay may begin, before records that are ready, and count it as under way.

        One call waits at a time.
        """
        if self._room(self._clock_ms()):
            self._count_attempt()
            return
        self._other = asyncio.get_running_loop().create_future()
        try:
            await self._other
        except asyncio.CancelledError:
            if not self._other.cancelled():
                self.in_flight -= 1
            raise
        finally:
            self._other = None

    def end_other(self) -> None:
        """Note the end of an attempt of a replay."""
        self.in_flight -= 1
        self.begin()

    def room_to_acquire(self) -> int:
        """Return for how many attempts to acquire records: to begin now, and to begin while those are settled."""
        if (info := self._info) is None:
            return 0
        now_ms = self._clock_ms()
        room = self._room(now_ms)
        is_steady = info.config.rate_limit_per_s is None and self._is_closed(now_ms) and not self._egress.is_down
        if is_steady and self._may_send(now_ms):
            room = (1 + AHEAD) * info.config.max_in_flight - self.in_flight
        return max(0, room - len(self._ready))

    def bytes_to_acquire(self) -> int:
        """Return how many bytes of records to acquire at most; the first record may be larger."""
        return self._memory.room(self._held_bytes)

    def ready_at_ms(self) -> int | None:
        """Return when an attempt may begin that the time alone prevents now; None if the time does not."""
        now_ms = self._clock_ms()
        at_ms = None if self._info is None else pace.ready_at_ms(self._pace(self._info), self._bucket, now_ms)
        if self._is_cut_off(now_ms):
            return max(self.retry_at_ms, at_ms or 0)
        return at_ms

    def _is_cut_off(self, now_ms: int) -> bool:
        """Return whether no server answers, and the last attempt is too recent."""
        return self._egress.is_down and 0 < self.retry_at_ms - now_ms <= _CUT_OFF_MS

    def _next(self) -> list[OnItsWay] | None:
        """Return the next batch, and count its attempt, or None if none may begin now."""
        if self._other is not None and not self._other.done() and self._room(self._clock_ms()):
            self._count_attempt()
            self._other.set_result(None)
        if not self._ready or not self._room(self._clock_ms()) or not self._has_time(self._ready[0]):
            return None
        self._count_attempt()
        return self._ready.popleft()

    def _count_attempt(self) -> None:
        self.in_flight += 1
        if self._info is not None and self._info.config.rate_limit_per_s is not None:
            self._bucket = self._bucket._replace(tokens=self._bucket.tokens - 1)
        self.retry_at_ms = self._clock_ms() + _CUT_OFF_MS

    async def _send_in_turn(self, batch: list[OnItsWay] | None) -> None:
        """Send a batch, and then others that are ready: a task for each costs more."""
        while batch is not None:
            try:
                await self._send(batch)
            finally:
                self.in_flight -= 1
                self._hold(batch, -1)
            batch = self._next()

    async def _send(self, batch: list[OnItsWay]) -> None:
        info, receiver = self._info, self._receiver
        if info is None or receiver is None:
            return
        is_probe = self.is_probing
        number = max(each.attempts for each in batch) + 1
        records = [each.record for each in batch]
        sent = await self._sender.send_records(receiver, info.config.mode, records, number, self._clock_ms())
        self._note(batch, sent, is_probe)

    def _hold(self, records: Sequence[OnItsWay], sign: int) -> None:
        size_bytes = sign * sum(each.size_bytes for each in records)
        self.held += sign * len(records)
        self._held_bytes += size_bytes
        self._memory.bytes += size_bytes

    def _has_time(self, batch: list[OnItsWay]) -> bool:
        """Return whether the locks of a batch last for an attempt."""
        receiver = self._receiver
        until_s = min(each.lock_ends_at_s for each in batch)
        return receiver is None or (until_s - time.monotonic()) * 1_000 > receiver.timeout_ms

    def _is_closed(self, now_ms: int) -> bool:
        return self._verdicts.breaker.state(now_ms) is BreakerState.CLOSED

    def _may_send(self, now_ms: int) -> bool:
        """Return whether the webhook is active and held by this node, and its receiver has not asked for a pause."""
        is_active = self._info is not None and self._info.status == "active" and self._receiver is not None
        return is_active and self._lease.lasts and now_ms >= self._verdicts.held_until_ms

    def _pace(self, info: WebhookInfo) -> Pace:
        config = info.config
        return Pace(config.max_in_flight, config.rate_limit_per_s, self._verdicts.held_until_ms, self._verdicts.breaker)

    def _room(self, now_ms: int) -> int:
        """Return how many attempts may begin now."""
        info = self._info
        if info is None or not self._may_send(now_ms):
            return 0
        if info.config.rate_limit_per_s is not None:
            self._bucket = pace.refill(self._bucket, info.config.rate_limit_per_s, now_ms)
        if self._is_cut_off(now_ms):
            return 0
        return pace.room(self._pace(info), self._bucket, self.in_flight, now_ms, is_cut_off=self._egress.is_down)
