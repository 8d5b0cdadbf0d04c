"""Health and readiness, for probes."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, UnsetType

from app import __version__
from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.domain.access.permission import PUBLIC
from app.errors.database import ServiceUnavailable
from app.storage.db import schema

router = APIRouter(tags=["operations"], route_class=OperationRoute)

_PROBE_S = 1.5


class Health(msgspec.Struct):
    """The process is running."""

    status: str
    version: str


class Readiness(msgspec.Struct):
    """The database answers, its tables are current, and the background tasks run and succeed.

    `deletion_by_time` is there only after the clock has jumped ahead: nothing is deleted by age for a while.
    """

    status: str
    database: str
    revision: str
    deletion_by_time: Literal["paused"] | UnsetType = UNSET


@router.get("/healthz")
@describe(Description(permission=PUBLIC, answers={200: Health}))
async def get_health(call: Call) -> Reply:
    """Report that the process is running.

    For liveness probes: it does not use the database.
    """
    _ = call
    return Reply.of(Health("ok", __version__))


@router.get("/readyz")
@describe(Description(permission=PUBLIC, answers={200: Readiness}, errors=(ServiceUnavailable,)))
async def get_readiness(call: Call) -> Reply:
    """Report whether the server is ready: the database can be written, the tables are current, the tasks succeed.

    For readiness probes. The answer takes at most two seconds; 503 says in `detail` what is wrong.
    """
    services = call.services
    if services.signals.closed:
        raise ServiceUnavailable("the server is stopping")
    if (refusal := services.storage.refusal) is not None:
        raise refusal
    try:
        async with asyncio.timeout(_PROBE_S):
            revision = await services.storage.read(schema.version)
            if revision == schema.HEAD:
                await services.storage.write(schema.check_writable)
    except TimeoutError:
        raise ServiceUnavailable(f"the database did not answer within {_PROBE_S} s") from None
    if revision != schema.HEAD:
        raise ServiceUnavailable("the database's tables are not current; run millrace migrate")
    if stopped := services.tasks_stopped():
        raise ServiceUnavailable(f"background tasks have stopped: {', '.join(stopped)}; restart the server")
    if failing := services.tasks_failing():
        raise ServiceUnavailable(f"background tasks fail: {', '.join(failing)}; see the server's log")
    paused: Literal["paused"] | UnsetType = "paused" if services.clock.paused else UNSET
    return Reply.of(Readiness("ok", services.storage.dialect.name, revision, paused))
