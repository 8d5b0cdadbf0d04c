"""The first key of an admin, made in the database itself: there is no key yet with which to ask the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli.server.migrate import one_line_database_errors
from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message

if TYPE_CHECKING:
    from app.broker.access.keys import KeyRequest, NewKey
    from app.storage.db.transaction import Tx


def create_admin_key(name: str, principal: str, database_url: str | None) -> tuple[str, str]:
    """Create the key of an admin in the database, and return its id and the key.

    With SQLite the server must be stopped. An SQLite database that does not exist is created.

    Raises:
        CommandFailed: The database cannot be opened, its tables are not current, or a field is not valid.
    """
    from app.broker.access.keys import KeyRequest
    from app.errors.broker_error import BrokerError
    from app.storage.db import schema
    from app.storage.db.opening import open_storage
    from app.storage.db.sqlite.files import DatabaseInUse

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    for sentence in ignored_variables():
        print_message(sentence)
    request = KeyRequest(name, principal, is_admin=True)
    with one_line_database_errors():
        try:
            storage = open_storage(settings.database_url)
        except DatabaseInUse:
            raise CommandFailed(
                "a server has this database open: make the key through it, with --url and the URL that it printed at "
                "its start, or stop it first"
            ) from None
        print_message(f"in {storage.dialect.location}")
        try:
            if not storage.dialect.shared:
                storage.write_now(schema.upgrade)
            elif storage.read_now(schema.version) != schema.HEAD:
                raise CommandFailed("the tables are not current; run millrace migrate first")
            created = storage.write_now(lambda tx: _create(tx, request, settings.max_keys))
        except BrokerError as error:
            raise CommandFailed(error.detail) from None
        finally:
            storage.close()
    return created.stored.key_id, created.text


def _create(tx: Tx, request: KeyRequest, max_keys: int) -> NewKey:
    from app.broker.access.keys import create_key
    from app.broker.log.audit import append_audit
    from app.domain.access.audit import AuditRecord
    from app.storage.db import clock

    now_ms = clock.read(tx)
    created = create_key(tx, request, now_ms, max_keys, first_is_admin=True)
    resource = {"key_id": created.stored.key_id}
    append_audit(
        tx, [AuditRecord(type="change", at_ms=now_ms, principal="(local)", operation="create_key", resource=resource)]
    )
    return created
