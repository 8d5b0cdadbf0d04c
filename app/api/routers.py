"""The routers of all operations."""

from __future__ import annotations

from app.api import transactions
from app.api.access import acls, keys, stream_tokens
from app.api.documents import start_page
from app.api.groups import groups, members, offsets, poll
from app.api.log import fetch, produce, producers, topics
from app.api.monitoring import health, metrics
from app.api.queues import deliveries, queue_records, queues
from app.api.sources import events, sources
from app.api.webhooks import attempts, nodes, replays, skips, webhooks

ROUTERS = (
    topics.router,
    produce.router,
    fetch.router,
    topics.partitions,
    producers.router,
    members.router,
    poll.router,
    offsets.router,
    transactions.router,
    members.details,
    groups.router,
    queues.router,
    deliveries.router,
    queue_records.router,
    sources.router,
    events.router,
    sources.admin,
    webhooks.router,
    attempts.router,
    replays.router,
    skips.router,
    start_page.router,
    health.router,
    metrics.router,
    nodes.router,
    acls.router,
    stream_tokens.router,
    keys.router,
)
"""In the order of the OpenAPI document, whose examples work in this order on an empty server."""
