"""A real pgbouncer in front of a PostgreSQL, for the tests of poolers."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
auth_type = any
pool_mode = {pool_mode}
max_client_conn = 100
default_pool_size = {pool_size}
unix_socket_dir =
logfile = {folder}/log
"""


def is_installed() -> bool:
    """Return whether there is a pgbouncer."""
    return shutil.which("pgbouncer") is not None


@contextlib.contextmanager
def pgbouncer(postgres_url: str, pool_mode: str, *, pool_size: int = 20, listen_port: int = 0) -> Iterator[str]:
    """Run a pgbouncer, and give the URL of the same database through it."""
    server = urlsplit(postgres_url)
    listen_port = listen_port or free_port()
    with tempfile.TemporaryDirectory(prefix="millrace-pgbouncer-") as name:
        folder = Path(name)
        values = {"host": server.hostname, "port": server.port or 5432, "listen_port": listen_port}
        database = server.path.lstrip("/")
        user = server.username or "millrace"
        text = _CONFIGURATION.format(**values, pool_mode=pool_mode, pool_size=pool_size, folder=folder)
        # With auth_type any, every database needs the user as which pgbouncer connects.
        text = text.replace("* = ", f"{database} = user={user} ")
        (folder / "pgbouncer.ini").write_text(text)
        run_as = _unprivileged(folder)
        process = subprocess.Popen(
            ["pgbouncer", "-q", folder / "pgbouncer.ini"], user=run_as, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(listen_port, process)
            yield f"postgresql://{user}@127.0.0.1:{listen_port}/{database}"
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _unprivileged(folder: Path) -> str | None:
    """Return the account that runs pgbouncer, which refuses root, after it was given the folder."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    folder.chmod(0o755)
    return nobody.pw_name


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.02)  # it gives no signal
    raise RuntimeError("pgbouncer did not start")
