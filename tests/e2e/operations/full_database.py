"""A database with rows in every table, as JSON: made through the API of one release, loaded by later ones.

`python -m tests.e2e.operations.full_database FILE` makes one with the tables of this checkout.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, Table, insert, inspect, select, text

from app.storage.db import schema
from app.storage.db.opening import open_storage
from app.storage.db.tables import partitions, topics
from app.storage.log import retention
from tests.serving import running
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2
    from sqlalchemy import Connection

    from app.storage.db.transaction import Tx

STORED = Path(__file__).parents[2] / "data" / "database_at_0009.json.gz"
SECRET_KEY = base64.b64encode(bytes(range(32))).decode()
_LATER_MS = 10 * 365 * 86_400_000


async def fill(client: httpx2.AsyncClient) -> None:
    """Use every part of the API, and leave each in the middle of its work."""
    await _fill_log(client)
    await _fill_groups(client)
    await _fill_queues(client)
    await _fill_webhooks(client)


async def _call(client: httpx2.AsyncClient, method: str, path: str, body: object = None, **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.request(method, f"/v1{path}", json=body, headers=names)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def _fill_log(client: httpx2.AsyncClient) -> None:
    for name, policy in {"orders": "delete", "prices": "compact", "short": "delete"}.items():
        config = {"cleanup_policy": policy, "retention_ms": -1}
        await _call(client, "PUT", f"/topics/{name}", {"partitions": 2, "config": config})
    records = [{"key": f"k{number % 7}", "value": {"n": number}, "headers": {"h": "1"}} for number in range(40)]
    await _call(client, "POST", "/topics/orders/records", {"records": records}, Idempotency_Key="first")
    for sequence in range(7):
        stamp = {"Producer_Id": "shop", "Producer_Epoch": "0", "Producer_Sequence": str(sequence)}
        await _call(client, "POST", "/topics/orders/records", {"key": "p", "value": sequence}, **stamp)
    for number in range(3):
        changed = [{"key": f"k{key}", "value": None if key == 5 else number} for key in range(8)]
        await _call(client, "POST", "/topics/prices/records", {"records": changed})
    await _call(client, "POST", "/topics/short/partitions/0/records", {"records": [{"value": n} for n in range(9)]})
    await _call(client, "DELETE", "/topics/short/partitions/0/records?before_offset=4")

    async def remaining() -> int:
        page = (await client.get("/v1/topics/prices/records", params={"offset": "earliest"})).json()
        return len(page["records"])

    await until(remaining, lambda number: number == 8)


async def _fill_groups(client: httpx2.AsyncClient) -> None:
    for member in ("alice", "bob"):
        await _call(client, "POST", "/groups/billing/members", {"topics": ["orders"], "member_id": member})
    poll = {"topics": ["orders"], "auto_commit": True, "max_records": 3}
    for _ in range(2):
        await _call(client, "POST", "/groups/mail/members/carol/poll", poll)
    committed = [{"topic": "orders", "partition": 0, "offset": 2}]
    await _call(client, "POST", "/groups/reports/offsets", {"offsets": committed})
    commit = {"group": "reports", "offsets": [committed[0] | {"from_offset": 2, "offset": 5}]}
    produced = {"topic": "sums", "records": [{"key": "orders", "value": 1}]}
    body = {"produce": [produced], "commit": [commit]}
    await _call(client, "POST", "/transactions", body, Idempotency_Key="sum")


async def _fill_queues(client: httpx2.AsyncClient) -> None:
    config = {"topic": "orders", "max_delivery_count": 3, "dead_letter_topic": "dead", "ordering": "key"}
    await _call(client, "PUT", "/queues/jobs", config)
    later = str(time.time_ns() // 1_000_000 + _LATER_MS)
    delayed = [{"key": f"k{n % 2}", "value": "later", "headers": {"deliver_at_ms": later}} for n in range(4)]
    await _call(client, "POST", "/topics/orders/records", {"records": delayed})
    await _call(client, "POST", "/topics/orders/records", {"records": [{"key": "k0", "value": "behind"}]})
    for outcome in ("accept", "reject", "release"):
        body = {"max_records": 2}
        given = await _call(client, "POST", "/queues/jobs/acquire", body, Idempotency_Key=f"acquire {outcome}")
        ended = [{"delivery_id": each["delivery_id"], "outcome": outcome} for each in given["deliveries"]]
        await _call(client, "POST", "/queues/jobs/acknowledge", {"acknowledgements": ended})
    await _call(client, "POST", "/queues/jobs/acquire", {"max_records": 100})
    await until(
        lambda: client.get("/v1/topics/dead/records", params={"offset": "earliest"}),
        lambda answer: answer.status_code == 200 and len(answer.json()["records"]) >= 2,
    )
    await _call(client, "POST", "/queues/jobs/redrive", {"dry_run": False})
    await _call(client, "PUT", "/queues/plain", {"topic": "short"})
    await _call(client, "POST", "/queues/plain/acquire", {"max_records": 2})


async def _fill_webhooks(client: httpx2.AsyncClient) -> None:
    config = {
        "url": "http://127.0.0.1:1025/hooks",
        "topics": ["short"],
        "start": "earliest",
        "headers": {"X-Token": "t"},
    }
    await _call(client, "PUT", "/webhooks/crm", config)
    await until(
        lambda: client.get("/v1/webhooks/crm/attempts"), lambda answer: len(answer.json().get("items", [])) >= 3
    )
    await _call(client, "POST", "/webhooks/crm/replay", {"topic": "short", "from": "earliest", "dry_run": False})
    verify = {"scheme": "github", "secret": "not a secret any more"}
    await _call(client, "PUT", "/sources/hub", {"topic": "pushes", "verify": verify})
    await client.post("/v1/sources/hub/events", json={}, headers={"X-Hub-Signature-256": "sha256=00"})
    await until(lambda: client.get("/v1/sources/hub/refusals"), lambda answer: len(answer.json().get("items", [])) >= 1)


async def make(database_url: str) -> None:
    """Fill a new database, and stop in the middle of a deletion."""
    settings = {
        "database_url": database_url,
        "retention_interval_ms": 50,
        "secret_key": SECRET_KEY,
        "webhook_allowed_networks": "127.0.0.1/32",
    }
    async with running(settings) as (_, client):
        await fill(client)
    storage = open_storage(database_url)
    try:
        storage.write_now(_delete_some)
    finally:
        storage.close()


def _delete_some(tx: Tx) -> None:
    """Raise the start of a partition, whose rows stay until the next pass, and add what only PostgreSQL writes."""
    of_topic = select(partitions.c.partition_id).join(topics, topics.c.topic_id == partitions.c.topic_id)
    partition_id = tx.connection.execute(of_topic.where(topics.c.name == "orders")).scalars().first()
    assert partition_id is not None
    assert retention.delete_before(tx, partition_id, 3)
    tx.connection.execute(text("INSERT INTO node_leases (node_id, until_ms) VALUES ('node', 1)"))


def dump(connection: Connection) -> dict[str, Any]:
    """Return all rows by table."""
    stored: dict[str, Any] = {}
    for name in sorted(inspect(connection).get_table_names()):
        if not name.startswith("sqlite_"):
            table = Table(name, MetaData(), autoload_with=connection)
            rows = [list(map(_encoded, row)) for row in connection.execute(select(table))]
            stored[name] = {"columns": [column.name for column in table.columns], "rows": rows}
    return stored


def load(connection: Connection, stored: dict[str, Any]) -> None:
    """Insert the rows of a dump into tables of its revision."""
    for name, content in stored.items():
        if name != "alembic_version":
            table = Table(name, MetaData(), autoload_with=connection)
            connection.execute(table.delete())
            columns = content["columns"]
            rows = [dict(zip(columns, map(_decoded, row), strict=True)) for row in content["rows"]]
            if rows:
                connection.execute(insert(table), rows)
            if connection.dialect.name == "postgresql":
                _set_sequences(connection, table)


def _set_sequences(connection: Connection, table: Table) -> None:
    """Let the ids that PostgreSQL assigns begin after those of the rows."""
    for column in table.columns:
        named = {"name": table.name, "column": column.name}
        sequence = connection.execute(text("SELECT pg_get_serial_sequence(:name, :column)"), named).scalar_one()
        if sequence is not None:
            last = f"SELECT setval('{sequence}', (SELECT max({column.name}) FROM {table.name}))"
            connection.execute(text(last))


def _encoded(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _decoded(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def create_at(database_url: str, revision: str) -> None:
    """Create the tables as they were at a revision."""
    storage = open_storage(database_url)
    try:
        storage.write_now(_migrate_to, revision)
    finally:
        storage.close()


def _migrate_to(tx: Tx, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_path()))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, revision)


def load_stored(database_url: str) -> None:
    """Load the stored database, and migrate it to the tables of this checkout."""
    stored = read_stored()
    create_at(database_url, stored["alembic_version"]["rows"][0][0])
    storage = open_storage(database_url)
    try:
        storage.write_now(lambda tx: load(tx.connection, stored))
        storage.write_now(schema.upgrade)
    finally:
        storage.close()


def read_stored() -> dict[str, Any]:
    """Return the stored database."""
    stored: dict[str, Any] = json.loads(gzip.decompress(STORED.read_bytes()))
    return stored


def main() -> None:
    """Make a database, and write it to the file of the first argument."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'millrace.db'}"
        asyncio.run(make(url))
        storage = open_storage(url)
        try:
            assert storage.read_now(schema.version) == schema.HEAD
            stored = storage.read_now(lambda tx: dump(tx.connection))
        finally:
            storage.close()
    empty = [name for name, content in stored.items() if not content["rows"]]
    print({name: len(content["rows"]) for name, content in stored.items()}, "empty:", empty)
    Path(sys.argv[1]).write_bytes(gzip.compress(json.dumps(stored).encode(), mtime=0))


if __name__ == "__main__":
    main()
