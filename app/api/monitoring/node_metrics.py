"""Metrics that a node counts by itself, from its start on."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from prometheus_client.core import Metric

from app import __version__
from app.api.monitoring.families import counter, counters, gauge, gauges, histograms
from app.api.services import Services
from app.domain.metrics.node_metrics import OperationTable, TopicTable


def node_metrics(services: Services) -> Iterator[Metric]:
    """Return the metrics of a node."""
    build = (__version__, ".".join(map(str, sys.version_info[:3])), services.storage.dialect.name)
    yield gauges(
        "millrace_build_info", "1, with the versions.", ("version", "python_version", "database"), [(build, 1)]
    )
    yield from _requests(services)
    yield from _door(services)
    yield from _appends(services)
    yield from _waiting(services)
    yield from _database_use(services)
    yield from _tasks(services)
    yield from _webhooks(services)


def _requests(services: Services) -> Iterator[Metric]:
    operations = services.metrics.operations or OperationTable()
    label = ("operation",)
    yield counters(
        "http_answers",
        "Answers by operation and status.",
        ("operation", "status"),
        (((name, str(status)), n) for name, each in operations.items() for status, n in each.answers.items()),
    )
    yield histograms(
        "http_request_duration_seconds",
        "Requests that do not wait: from their head to their answer.",
        label,
        (((name,), each.durations) for name, each in operations.items()),
    )
    yield histograms(
        "http_long_poll_duration_seconds",
        "Requests that may wait for records.",
        label,
        (((name,), each.long_polls) for name, each in operations.items()),
    )
    yield histograms(
        "http_stream_duration_seconds",
        "Streams that have ended.",
        label,
        (((name,), each.streams) for name, each in operations.items()),
    )
    yield counters(
        "http_received_bytes",
        "Bodies of requests, as they were sent.",
        label,
        (((name,), each.received_bytes) for name, each in operations.items()),
    )
    yield counters(
        "http_sent_bytes",
        "Bodies of answers.",
        label,
        (((name,), each.sent_bytes) for name, each in operations.items()),
    )


def _door(services: Services) -> Iterator[Metric]:
    door, ledger = services.metrics.door, services.memory.ledger
    yield gauge("connections", "Open connections.", door.connections)
    yield counter("accepted_connections", "Connections since the start.", door.accepted)
    yield counters(
        "refusals",
        "Requests that were refused before they reached an operation, by the code of the problem.",
        ("code",),
        (((code,), number) for code, number in door.refusals.items()),
    )
    yield counters(
        "limit_refusals",
        "Requests and connections that a limit refused.",
        ("limit",),
        (((limit,), number) for limit, number in services.limits.refused.items()),
    )
    yield counter("source_refusals", "Refused deliveries to sources.", services.receiver.refused)
    yield gauge("memory_budget_bytes", "Limit of the bytes that requests hold.", ledger.shares.all_held)
    yield gauge("memory_held_bytes", "Bytes that requests hold.", ledger.bytes)
    yield counter("memory_refusals", "How often the memory budget had no room.", ledger.refused)


def _appends(services: Services) -> Iterator[Metric]:
    appender, metrics = services.appender, services.metrics
    yield counter("appended_records", "Records appended.", appender.records)
    yield counter("append_requests", "Append requests answered.", appender.requests)
    yield counter("append_transactions", "Transactions that committed append requests.", appender.transactions)
    yield counter("queue_requests", "Acquire and acknowledge requests answered.", services.deliveries.requests)
    yield counter(
        "queue_transactions", "Transactions of acquire and acknowledge requests.", services.deliveries.transactions
    )
    appended = metrics.topics or TopicTable()
    yield counters(
        "topic_appended_records",
        "Records that clients appended.",
        ("topic",),
        (((topic,), records) for topic, (records, _) in appended.items()),
    )
    yield counters(
        "topic_appended_bytes",
        "Bytes of the requests that appended them.",
        ("topic",),
        (((topic,), size_bytes) for topic, (_, size_bytes) in appended.items()),
    )
    commits = [(kind, each) for kind, each in (("append", metrics.appends), ("queue", metrics.deliveries)) if each]
    yield histograms(
        "commit_duration_seconds",
        "Group commits: from the start of the transaction until it is on disk.",
        ("kind",),
        (((kind,), each.durations) for kind, each in commits),
    )
    yield histograms(
        "commit_requests",
        "Requests that shared a group commit.",
        ("kind",),
        (((kind,), each.requests) for kind, each in commits),
    )
    yield counter("rebalances", "Assignments of consumer groups computed.", services.groups.assignments)


def _waiting(services: Services) -> Iterator[Metric]:
    yield gauges(
        "millrace_waiting_requests",
        "Requests that wait for a group commit.",
        ("kind",),
        [(("append",), services.appender.waiting), (("queue",), services.deliveries.waiting)],
    )
    yield gauge("pending_append_bytes", "Bytes of appends that wait for a commit.", services.appender.pending_bytes)
    yield gauge("waiting_reads", "Reads that wait for records.", services.signals.waiting)
    yield gauge("parked_reads", "Waiting reads that have nothing else to do.", services.signals.parked)
    yield gauge("open_streams", "Open streams.", services.streams.open)


def _database_use(services: Services) -> Iterator[Metric]:
    storage = services.storage
    label = ("kind",)
    yield gauges(
        "millrace_database_connections_busy",
        "Connections that run a transaction.",
        label,
        [(("read",), storage.busy("read")), (("write",), storage.busy("write"))],
    )
    yield gauges(
        "millrace_database_connections_max",
        "Connections that the node opens at most.",
        label,
        [(("read",), storage.dialect.readers), (("write",), storage.dialect.writers)],
    )
    yield gauge("disk_full", "1 while appends are refused for lack of space.", float(storage.full))


def _tasks(services: Services) -> Iterator[Metric]:
    tasks, retention = services.metrics.tasks, services.metrics.retention
    label = ("task",)
    yield counters("task_runs", "Steps that succeeded.", label, (((name,), each.runs) for name, each in tasks.items()))
    yield counters(
        "task_failures", "Steps that failed.", label, (((name,), each.failures) for name, each in tasks.items())
    )
    yield counters(
        "task_seconds", "Time that steps took.", label, (((name,), each.seconds) for name, each in tasks.items())
    )
    not_running = {*services.tasks_failing(), *services.tasks_stopped()}
    yield gauges(
        "millrace_task_up",
        "0 if a background task failed five times in a row, or has stopped.",
        label,
        (((name,), float(name not in not_running)) for name in tasks),
    )
    yield counter("retention_raised_starts", "How often a policy raised the start of a log.", retention.raised_starts)
    yield counter(
        "retention_deleted_records", "Records deleted from before the start of a log.", retention.deleted_records
    )
    yield counter("compaction_deleted_records", "Records deleted by compaction.", retention.compacted_records)


def _webhooks(services: Services) -> Iterator[Metric]:
    log, snapshots = services.dispatcher.log, services.dispatcher.snapshots()
    label = ("webhook",)
    yield counters(
        "webhook_attempts", "Attempts by outcome.", ("outcome",), (((each,), n) for each, n in log.totals.items())
    )
    yield counter("webhook_attempt_seconds", "Time that attempts took, all together.", log.duration_ms / 1_000)
    yield gauges(
        "millrace_webhook_retrying_records",
        "Records that failed and are attempted again.",
        label,
        (((each.webhook,), each.retrying) for each in snapshots),
    )
    yield gauges(
        "millrace_webhook_attempts_in_flight",
        "Attempts now.",
        label,
        (((each.webhook,), each.in_flight) for each in snapshots),
    )
    yield gauges(
        "millrace_webhook_breaker_open",
        "1 while most attempts fail and are held back.",
        label,
        (((each.webhook,), float(each.is_breaker_open)) for each in snapshots),
    )
