"""What the workers of a node share, and how they build receivers and attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from app.broker.access.access_control import AccessControl
from app.broker.encryption.secret_box import SecretBox
from app.broker.log.topics import Topics
from app.broker.outbound.egress import Egress
from app.broker.waiting.signals import Signals
from app.broker.webhooks import keys
from app.broker.webhooks.attempt_log import AttemptLog
from app.broker.webhooks.deliveries.holding import HeldMemory, Lease
from app.broker.webhooks.deliveries.sender import Receiver, Sender, Sent
from app.storage.db.engine import Storage
from app.storage.webhooks.attempts import Attempt
from app.storage.webhooks.webhooks import StoredWebhook

if TYPE_CHECKING:
    from app.domain.webhooks.message import WebhookRecord


class WorkerParts(NamedTuple):
    """What all workers of a node share.

    Attributes:
        clock_ms: The clock of the log.
        to_archive: Called when there is a record to archive.
        max_retrying: Records of a webhook that may be retried or in flight; then no new one is sent.
        lease: Until when this node may send.
        memory: What the records of all webhooks hold.
        access: Tells what the owner of a webhook may read.
    """

    storage: Storage
    topics: Topics
    signals: Signals
    sender: Sender
    egress: Egress
    box: SecretBox
    log: AttemptLog
    clock_ms: Callable[[], int]
    to_archive: Callable[[], None]
    max_retrying: int
    lease: Lease
    memory: HeldMemory
    access: AccessControl


def open_receiver(box: SecretBox, stored: StoredWebhook, now_ms: int) -> Receiver:
    """Return where and how a webhook sends, with its secrets.

    Raises:
        WrongSecretKey: No key of the server decrypts them.
    """
    info, headers = stored.info, keys.open_headers(box, stored)
    signing = keys.open_keys(box, stored, now_ms)
    return Receiver(info.name, info.config.url, info.config.timeout_ms, headers, signing, info.mark)


def attempt_of(
    message_id: str,
    sent: Sent,
    number: int,
    record: WebhookRecord | None = None,
    *,
    next_attempt_at_ms: int | None = None,
) -> Attempt:
    """Return an attempt as it is stored; without a record it was a test."""
    return Attempt(
        0,
        message_id,
        None if record is None else record.topic,
        None if record is None else record.partition,
        None if record is None else record.record.offset,
        number,
        sent.at_ms,
        sent.duration_ms,
        sent.outcome,
        sent.status,
        sent.error,
        sent.headers,
        sent.body,
        next_attempt_at_ms,
    )
