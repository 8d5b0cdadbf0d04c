"""`millrace listen`: a receiver on this machine that verifies and prints the attempts of webhooks."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from app.cli.log.topics import Json
from app.cli.terminal.failure import INTERRUPTED, CommandFailed
from app.cli.terminal.output import print_message, stdout_is_terminal
from app.cli.terminal.shutdown_signals import ShutdownRequested, ShutdownSignals
from app.cli.webhooks.webhooks import SECRET_VARIABLE

_HOST = "127.0.0.1"


def listen(
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = (
        8401
    ),
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            envvar=SECRET_VARIABLE,
            show_envvar=True,
            help="Secret (whsec_…) or public key (whpk_…) of the webhook.",
            show_default="a new one",
        ),
    ] = None,
    fail: Annotated[
        int,
        typer.Option("--fail", metavar="N", min=0, help="Answer every Nth attempt with 500; 1 for all, 0 for none."),
    ] = 0,
    number: Annotated[
        int | None, typer.Option("--number", "-n", min=1, help="Exit after this number of attempts.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print and verify the attempts of webhooks, on this machine.

    The signature is verified as Standard Webhooks describe; an attempt that is not verified is answered with 401.
    The server must run with MILLRACE_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8.
    """
    from app.cli.webhooks.receiver import Receiver, check_secret, new_secret

    is_new = secret is None
    secret = new_secret() if secret is None else secret
    check_secret(secret)
    show_json = as_json or not stdout_is_terminal()
    try:
        receiver = Receiver((_HOST, port), secret, fail=fail, number=number, show_json=show_json)
    except OSError as error:
        raise CommandFailed(f"cannot listen on {_HOST}:{port}: {error.strerror}; choose another --port") from None
    with ShutdownSignals() as shutdown, receiver:
        receiver_url = f"http://{_HOST}:{receiver.server_port}"
        print_message(f"listening on {receiver_url}; Ctrl-C ends")
        if is_new:
            print_message("in another terminal, create a webhook that posts here:")
            print_message(f"{SECRET_VARIABLE}={secret} millrace webhooks create local {receiver_url} TOPIC")
        try:
            with shutdown.raising():
                receiver.serve_forever(poll_interval=0.1)
        except ShutdownRequested:
            pass
    if shutdown.signal_number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)
