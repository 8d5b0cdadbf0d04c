"""`millrace secrets`: encrypt the stored secrets with another key."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.server.migrate import one_line_database_errors
from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message

secrets = typer.Typer(no_args_is_help=True, help="Manage the encryption of the stored secrets.")


@secrets.callback()
def commands() -> None:
    """Manage the encryption of the stored secrets."""


@secrets.command()
def rewrap(
    database_url: Annotated[
        str | None, typer.Option(help="Database URL (MILLRACE_DATABASE_URL; sqlite:///millrace.db).")
    ] = None,
) -> None:
    """Encrypt all stored secrets with the first key of MILLRACE_SECRET_KEY.

    Put the new key behind the old one, and restart all nodes, so that all decrypt with it. Put it before the old one,
    and restart them again. Then run this command, and remove the old key. With SQLite, stop the server first.
    """
    from app.broker.encryption.secret_box import SecretBox, WrongSecretKey, keys_of
    from app.broker.sources import sources
    from app.broker.webhooks import keys
    from app.storage.db import schema
    from app.storage.db.opening import open_storage

    settings = read_settings({} if database_url is None else {"database_url": database_url})
    for sentence in ignored_variables():
        print_message(sentence)
    with one_line_database_errors():
        storage = open_storage(settings.database_url)
        try:
            if storage.read_now(schema.version) != schema.HEAD:
                raise CommandFailed("the tables are not current; run millrace migrate first")
            box = SecretBox(lambda: keys_of(settings.secret_key, storage.dialect.path))
            rewrapped = storage.write_now(lambda tx: sources.rewrap(tx, box) + keys.rewrap(tx, box))
        except WrongSecretKey as error:
            raise CommandFailed(f"{error}; nothing was changed: add the key that encrypted it") from None
        finally:
            storage.close()
    print(f"encrypted {rewrapped} secret{'' if rewrapped == 1 else 's'} with the first key")
