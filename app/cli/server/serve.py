"""`millrace serve`: the API and its background tasks in this process."""

from __future__ import annotations

import gc
import logging
import os
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from app import __version__
from app.cli.server.log_output import failures_in_log, log_to_stderr
from app.cli.server.migrate import one_line_database_errors
from app.cli.server.settings_reader import ignored_variables, read_settings
from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from app.main import Application
    from app.server.tls.certificate import Certificate
    from app.settings import Settings

_log = logging.getLogger(__name__)
_LONGEST_STOP_S = 8.0
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (MILLRACE_HOST; 127.0.0.1).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one (MILLRACE_PORT; 8400).")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="sqlite:///path or postgresql://user:password@host/db (MILLRACE_DATABASE_URL; sqlite:///millrace.db).",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate and chain in PEM format: HTTPS (MILLRACE_TLS_CERT).")
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Its private key, if it is in another file (MILLRACE_TLS_KEY)."),
    ] = None,
) -> None:
    """Run the server.

    Options take precedence over MILLRACE_ variables, and these over a `.env` file.
    """
    options = {
        "host": host,
        "port": port,
        "database_url": database_url,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
    }
    log_format = os.environ.get("MILLRACE_LOG_FORMAT", "").lower()
    with failures_in_log() if log_format == "json" else nullcontext():
        settings = read_settings({name: value for name, value in options.items() if value is not None})
    log_to_stderr(settings.log_level, settings.log_format, access_log=settings.access_log)
    with failures_in_log() if settings.log_format == "json" else nullcontext():
        for sentence in ignored_variables():
            _log.warning("%s", sentence)
        _run(settings)
    gc.freeze()  # without it, the last garbage collections of the interpreter take 0.2 s


def _run(settings: Settings) -> None:
    """Serve until the process is told to stop."""
    from app.server.allocator import return_freed_memory
    from app.server.open_files import raise_limit
    from app.server.uvicorn import Connections, ServerMemory
    from app.server.uvicorn import serve as run_server

    return_freed_memory()
    raise_limit()
    certificate = _certificate(settings)
    application = _build(settings)
    if (refusal := application.services.access.refusal_to_start()) is not None:
        application.services.storage.close()
        raise CommandFailed(refusal)

    connections = Connections(
        settings.max_connections,
        settings.max_connections_per_address,
        application.is_proxy,
        application.services.limits.refused,
    )

    needs_key = application.services.access.needs_keys_at_start()
    for sentence in _exposures(settings):
        _log.warning("%s", sentence)

    def announce(port: int) -> None:
        _announce(settings, port, application.services.storage.dialect.location, needs_key=needs_key)

    try:
        run_server(
            application.asgi,
            host=settings.host,
            port=settings.port,
            memory=ServerMemory(
                application.services.memory.ledger,
                application.client_of,
                connections,
                application.services.metrics.door,
            ),
            on_stop=lambda: _stop(application),
            on_ready=announce,
            access_log=settings.access_log,
            certificate=certificate,
        )
    finally:
        application.services.storage.close()


def _stop(application: Application) -> None:
    """Begin to stop, and end the process if a thread still waits for a database that does not answer."""
    application.stop()
    last_resort = threading.Timer(_LONGEST_STOP_S, _end_process)
    last_resort.daemon = True
    last_resort.start()


def _end_process() -> None:
    _log.error("the database did not answer for %d s; the process ends now", _LONGEST_STOP_S)
    os._exit(1)


def _build(settings: Settings) -> Application:
    from app.main import create_app

    with one_line_database_errors():
        return create_app(settings)


def _certificate(settings: Settings) -> Certificate | None:
    """Return the certificate for HTTPS, or None.

    Raises:
        CommandFailed: It cannot be used.
    """
    if not settings.tls_cert:
        if settings.tls_key:
            raise CommandFailed("MILLRACE_TLS_KEY needs MILLRACE_TLS_CERT, the file with the certificate")
        return None
    from app.server.tls.certificate import Certificate, CertificateUnusable

    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except CertificateUnusable as error:
        raise CommandFailed(f"no HTTPS: {error}") from None


def _exposures(settings: Settings) -> list[str]:
    """Return a sentence for each way in which others on the network can read what they should not."""
    from app.domain.access.loopback import is_loopback

    if is_loopback(settings.host):
        return []
    found = []
    if settings.auth == "none":
        found.append(f"everyone who can reach {settings.host} can read and change everything: MILLRACE_AUTH is none")
    elif not settings.tls_cert and not settings.trusted_proxies:
        found.append(
            "keys and records cross the network readable: set MILLRACE_TLS_CERT, or put a proxy with HTTPS in front "
            "and name it in MILLRACE_TRUSTED_PROXIES"
        )
    return found


def _announce(settings: Settings, port: int, data: str, *, needs_key: bool) -> None:
    """Print where the server is, or log it as an object."""
    name = settings.host.removeprefix("[").removesuffix("]")
    name = _ALL_ADDRESSES.get(name, name)
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"
    if settings.log_format == "json":
        fields = {"version": __version__, "url": url, "data": data}
        _log.info("millrace %s is ready at %s, data in %s", __version__, url, data, extra={"fields": fields})
    else:
        print(_banner(url, data, settings.host, needs_key=needs_key), flush=True)


def _banner(url: str, data: str, host: str, *, needs_key: bool) -> str:
    everywhere = f" (listens on {host})" if host.strip("[]") in _ALL_ADDRESSES else ""
    key = '-H "Authorization: Bearer $MILLRACE_API_KEY" ' if needs_key else ""
    return f"""\
millrace {__version__} is ready
  API    {url}/v1{everywhere}
  docs   {url}/docs
  data   {data}

Try: curl {key}--json '{{"value":"hi"}}' {url}/v1/topics/orders/records"""
