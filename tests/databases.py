"""The queue's database of a test: SQLite in a folder, or PostgreSQL in a cluster of the session's own.

The cluster is Debian's ``postgresql``, on loopback, started and stopped by its own pid. Its databases are copies of one
template that the migrations have made once. PostgreSQL refuses to run as root: there it runs as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from contourd.store.database import Database
from contourd.store.tables import Table
from contourd.system.loopback import LOOPBACK, free_port, stop

SQLITE, POSTGRESQL = "sqlite", "postgresql"
OWNER, PASSWORD, TEMPLATE = "contourd", "a pass/word", "contourd_template"
START_S, STOP_S = 60.0, 30.0
UNSAFE_AND_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test where there is none, or fail if peers are required."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    named = shutil.which("initdb")
    if not found and named is None:
        reason = "PostgreSQL's server is not installed"
        if os.environ.get("CONTOURD_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found[-1].parent if found else Path(str(named)).resolve().parent


class Cluster:
    """A PostgreSQL server with its data in a folder of its own, which is removed with it.

    Parameters
    ----------
    clients
        A network of which it lets hosts in, too.
    """

    def __init__(self, *options: str, address: str = LOOPBACK, clients: str = "") -> None:
        self.address = address
        self._programs, self._options = programs(), options
        self._folder = Path(tempfile.mkdtemp(prefix="contourd-postgresql-"))
        self.data, self.log, self.port = self._folder / "data", self._folder / "log", free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self._owner: psycopg.Connection[tuple[object, ...]] | None = None
        self._made = 0
        self._as: dict[str, str | int] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self._as = {"user": user.pw_uid, "group": user.pw_gid}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        password = self._folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        if self._as:  # an earlier test may have left a umask that lets nobody else read
            os.chown(password, user.pw_uid, user.pw_gid)
        self._run(
            *("initdb", "--no-sync", "--auth=scram-sha-256", f"--username={OWNER}", f"--pwfile={password}"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--pgdata", str(self.data)),
        )
        if clients:
            with (self.data / "pg_hba.conf").open("a", encoding="utf-8") as file:
                file.write(f"host all all {clients} scram-sha-256\n")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            *(
                f"port={self.port}",
                f"listen_addresses={self.address}",
                "unix_socket_directories=",
                "max_connections=150",
            ),
            *("shared_buffers=64MB", "lc_messages=C", "timezone=Europe/Amsterdam", *self._options),
        )
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, *(f"--{option}" for option in options)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                **self._as,  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL does not start:\n{self.log.read_text(errors='replace')}")
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls open transactions back, SIGQUIT is as a power cut to the server's processes."""
        if self._owner is not None:
            self._owner.close()
        if self.server is not None:
            self.server.send_signal(how)
            stop(self.server, STOP_S)
            self.server = None

    def remove(self) -> None:
        """End it and remove its data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name: str, password: str = PASSWORD) -> str:
        """Return the URL of a database as a settings file gives it."""
        return f"postgresql://{OWNER}:{quote(password, safe='')}@{self.address}:{self.port}/{name}"

    def make(self, template: str = "template0") -> str:
        """Make a database; returns its name."""
        self._made += 1
        name = f"queue_{self._made}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        return name

    def make_template(self) -> None:
        """Make the database that those of tests are copies of."""
        self.execute("CREATE DATABASE {}", TEMPLATE)
        database = Database(self.url(TEMPLATE))
        database.upgrade()
        database.close()

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute("DROP DATABASE {} WITH (FORCE)", name)

    def execute(self, statement: str, *names: str) -> None:
        """Execute a statement in no transaction, as the owner of all databases."""
        if self._owner is None or self._owner.closed:
            self._owner = psycopg.connect(self.url("postgres"), autocommit=True)
        self._owner.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _run(self, program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [self._programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self._folder,
            check=False,
            **self._as,  # type: ignore[call-overload]
        )
        assert ran.returncode == 0, ran.stderr.decode(errors="replace")


class Databases:
    """Where the queues of the test that runs now are kept."""

    def __init__(self, cluster: Cluster | None) -> None:
        self.cluster = cluster
        self._names: dict[Path, str] = {}

    def url(self, file: Path, empty: bool) -> str:
        """Return the URL of a database that stands for a file of SQLite's; one that is asked for again is the same."""
        if self.cluster is None:
            return f"sqlite:///{file}"
        if file not in self._names:
            self._names[file] = self.cluster.make("template0" if empty else TEMPLATE)
        return self.cluster.url(self._names[file])

    def drop(self) -> None:
        """Remove what was made."""
        for name in self._names.values():
            assert self.cluster is not None
            self.cluster.drop(name)


_current = Databases(None)


@contextmanager
def kept_in(cluster: Cluster | None) -> Iterator[None]:
    """Keep the queues that are opened meanwhile in a cluster; None: in SQLite."""
    global _current
    before, _current = _current, Databases(cluster)
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # the test has stopped it
            _current.drop()
        _current = before


def queue_url(folder: Path, name: str = "queue", empty: bool = False) -> str:
    """Return the URL of a test's queue; of PostgreSQL with its tables, if not ``empty``."""
    return _current.url(folder / f"{name}.sqlite", empty)


def open_queue(folder: Path, name: str = "queue", empty: bool = False) -> Database:
    """Open a test's queue: ``NAME.sqlite`` in a folder, or what stands for it in PostgreSQL."""
    return Database(queue_url(folder, name, empty))


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Hold what another program holds that writes for long: meanwhile nothing can be written, and all be read."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.file), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        return
    with psycopg.connect(database.url) as other:
        tables = sorted({table.name for table in Table.metadata.tables.values()} - {"tallies"})  # that is a view
        names = sql.SQL(", ").join(map(sql.Identifier, tables))
        other.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(names))
        yield
        other.rollback()
