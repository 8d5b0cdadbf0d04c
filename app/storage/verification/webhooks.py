"""Check webhooks and sources against their queues and the log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec
from sqlalchemy import Connection, func, select

from app.domain.sources.source import SourceConfig
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.replay import ReplayPlan, ReplayProgress
from app.domain.webhooks.webhook import WebhookConfig
from app.storage.db.tables import queues, webhook_retries
from app.storage.sources.tables import source_refusals, sources
from app.storage.verification.log import CheckedLog, decoded, rows_of
from app.storage.verification.queues import CheckedSharePartition, Key
from app.storage.verification.report import Report
from app.storage.webhooks.retries import EXHAUSTED
from app.storage.webhooks.tables import webhook_attempts, webhook_replays, webhooks
from app.storage.webhooks.webhooks import QUEUE_PREFIX

_WEBHOOKS = select(webhooks.c.webhook_id, webhooks.c.name, webhooks.c.config, webhooks.c.breaker)
_HIDDEN = select(queues.c.name).where(queues.c.name.like(f"{QUEUE_PREFIX}%"))
_RETRIES = select(
    webhook_retries.c.queue_id,
    webhook_retries.c.partition_id,
    webhook_retries.c.offset,
    webhook_retries.c.attempts,
)
_REPLAYS = select(
    webhook_replays.c.replay_id,
    webhook_replays.c.webhook_id,
    webhook_replays.c.plan,
    webhook_replays.c.progress,
    webhook_replays.c.state,
)
_ATTEMPTS = select(webhook_attempts.c.webhook_id, func.count()).group_by(webhook_attempts.c.webhook_id)
_SOURCES = select(sources.c.source_id, sources.c.name, sources.c.config)
_REFUSALS = select(source_refusals.c.source_id, func.count()).group_by(source_refusals.c.source_id)
_STATES = {"running", "done", "cancelled"}

_webhook = msgspec.json.Decoder(WebhookConfig).decode
_source = msgspec.json.Decoder(SourceConfig).decode
_breaker = msgspec.msgpack.Decoder(Breaker).decode
_plan = msgspec.msgpack.Decoder(ReplayPlan).decode
_progress = msgspec.msgpack.Decoder(ReplayProgress).decode


def check_webhooks(
    connection: Connection, log: CheckedLog, share_partitions: Mapping[Key, CheckedSharePartition], report: Report
) -> None:
    """Check webhooks with their hidden queues, retries, replays and attempts."""
    names: dict[int, str] = {}
    for webhook_id, name, config, breaker in rows_of(connection, _WEBHOOKS, 500):
        report.checked["webhooks"] += 1
        names[webhook_id] = name
        decoded(report, f"webhook {name}", partial(_webhook, config))
        decoded(report, f"webhook {name}", partial(_breaker, breaker))
    known = set(names.values())
    for (queue,) in connection.execute(_HIDDEN):
        owner = queue.removeprefix(QUEUE_PREFIX).rpartition(":")[0]
        report.require(owner in known, "ORPHAN", f"queue {queue}", "it has no webhook")
    for queue_id, partition_id, offset, attempts in rows_of(connection, _RETRIES):
        report.checked["webhook_retries"] += 1
        if (share_partition := share_partitions.get((queue_id, partition_id))) is None:
            report.add("ORPHAN", f"queue id {queue_id}", f"attempts of offset {offset} of no share partition")
            continue
        subject, end_offset = share_partition
        detail = f"offset {offset} has {attempts} attempts, and end_offset is {end_offset}"
        report.require(0 <= offset < end_offset and attempts >= EXHAUSTED, "WEBHOOKS", subject, detail)
    for webhook_id, number in connection.execute(_ATTEMPTS):
        report.checked["webhook_attempts"] += number
        report.require(webhook_id in names, "ORPHAN", f"webhook id {webhook_id}", "attempts of no webhook")
    _check_replays(connection, names, log, report)


def _check_replays(connection: Connection, names: Mapping[int, str], log: CheckedLog, report: Report) -> None:
    for replay_id, webhook_id, encoded_plan, encoded_progress, state in rows_of(connection, _REPLAYS, 100):
        report.checked["webhook_replays"] += 1
        subject = f"replay {replay_id} of webhook {names.get(webhook_id, f'id {webhook_id}')}"
        report.require(webhook_id in names, "ORPHAN", subject, "it has no webhook")
        plan = decoded(report, subject, partial(_plan, encoded_plan))
        progress = decoded(report, subject, partial(_progress, encoded_progress))
        if plan is None or progress is None:
            continue
        report.require(
            0 <= progress.number <= len(plan.ranges) and state in _STATES,
            "WEBHOOKS",
            subject,
            f"it is {state}, in range {progress.number} of {len(plan.ranges)}",
        )
        for part in plan.ranges:
            end = log.ends.get(part.partition_id)
            if end is not None and part.to_offset > end:
                detail = f"it sends partition {part.partition} up to {part.to_offset}, and log_end_offset is {end}"
                report.add("ABOVE_END", subject, detail)


def check_sources(connection: Connection, report: Report) -> None:
    """Check sources and their refusals."""
    known = set()
    for source_id, name, config in rows_of(connection, _SOURCES, 500):
        report.checked["sources"] += 1
        known.add(source_id)
        decoded(report, f"source {name}", partial(_source, config))
    for source_id, number in connection.execute(_REFUSALS):
        report.checked["source_refusals"] += number
        report.require(source_id in known, "ORPHAN", f"source id {source_id}", "refusals of no source")
