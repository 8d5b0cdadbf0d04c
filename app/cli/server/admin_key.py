"""The first key of an admin, made in the database itself: there is no key yet with which to ask the server."""

from __future__ import annotations

from app.cli.server.migrate import one_line_database_errors
from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message


def create_admin_key(name: str, principal: str, database_url: str | None) -> tuple[str, str]:
    """Create the key of an admin in the database, and return its id and the key.

    With SQLite the server must be stopped. An SQLite database that does not exist is created.

    Raises:
        CommandFailed: The database cannot be opened, its tables are not current, or a field is not valid.
    """
    from app.broker.access.keys import KeyRequest, create_key
    from app.errors.broker_error import BrokerError
    from app.storage.db import clock, schema
    from app.storage.db.opening import open_storage

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    for sentence in ignored_variables():
        print_message(sentence)
    request = KeyRequest(name, principal, is_admin=True)
    with one_line_database_errors():
        storage = open_storage(settings.database_url)
        try:
            if not storage.dialect.shared:
                storage.write_now(schema.upgrade)
            elif storage.read_now(schema.version) != schema.HEAD:
                raise CommandFailed("the tables are not current; run millrace migrate first")
            created = storage.write_now(
                lambda tx: create_key(tx, request, clock.read(tx), settings.max_keys, first_is_admin=True)
            )
        except BrokerError as error:
            raise CommandFailed(error.detail) from None
        finally:
            storage.close()
    return created.stored.key_id, created.text
