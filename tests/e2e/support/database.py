"""Questions to the database of the servers, past the servers."""

from __future__ import annotations

import psycopg

MOST_CONNECTIONS = 10
"""Of a node, as docs/operations.md has it; its threads connect when they are needed."""

CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'millrace'
"""


async def open_connections(url: str) -> int:
    """Return the number of database connections of all nodes; 0 on SQLite."""
    if url.startswith("sqlite"):
        return 0
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(CONNECTIONS)).fetchone()
    assert row is not None
    (number,) = row
    return int(number)
