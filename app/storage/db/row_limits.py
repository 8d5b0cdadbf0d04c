"""Limits of the number of rows of a table."""

from __future__ import annotations

from sqlalchemy import Table, func, literal_column, select

from app.errors.limits import PolicyViolation
from app.storage.db.transaction import Tx


def check_rows(tx: Tx, table: Table, most: int) -> None:
    """Refuse what this transaction has inserted, if the table has too many rows now.

    Transactions that run at the same time do not see each other's rows, and can exceed the limit together.

    Raises:
        PolicyViolation: The table has more than `most` rows. The transaction must be rolled back.
    """
    some = select(literal_column("1")).select_from(table).limit(most + 1).subquery()
    if tx.connection.execute(select(func.count()).select_from(some)).scalar_one() > most:
        raise PolicyViolation(
            f"there would be more than {most:,} {table.name}, the maximum of this installation "
            f"(MILLRACE_MAX_{table.name.upper()}); delete some, or raise it"
        )
