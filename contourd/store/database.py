"""Engine, SQLite pragmas, transactions and the schema's revision."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, PoolProxiedConnection, create_engine, event, inspect, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from contourd.commands import command
from contourd.errors import NodeError, QueueUnavailable, SchemaMismatch
from contourd.store import postgresql
from contourd.store import review_tables as review_tables  # its tables are known with the others
from contourd.store import shadow_tables as shadow_tables  # all tables are known where there is a database
from contourd.store.tables import SCHEMA_REVISION

if TYPE_CHECKING:
    from alembic.config import Config

# A sender waits for its answer all the while, often no longer than 30 s.
BUSY_TIMEOUT_MS = 10_000
# What SQLite says, and what it means to the person who reads it. The text of SQLAlchemy would quote the row.
MEANINGS = (
    ("is locked", "is locked by another program"),
    ("is full", "finds no space on its disk"),
    ("readonly", "cannot be written: its disk or file is read-only"),
    ("malformed", "is damaged"),
    ("not a database", "is damaged"),
    ("unable to open", "cannot be opened"),
    ("disk I/O", "cannot be read or written: the disk reports an error"),
)
# Of a session that reads on PostgreSQL: its statements see the same state, as they do on SQLite.
ONE_STATE = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# Faults of the code, not of the database.
OURS = (IntegrityError, ProgrammingError, DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError)
# The advisory lock of whoever changes the schema.
MIGRATING = 0x636F6E746F757264
DAMAGED = (
    "stop contourd, put its latest backup in its place, and start again; without a backup move it away: "
    "the images that were received stay in the spool's folder incoming, and can be sent from there"
)


class Database:
    """One database, SQLite or PostgreSQL by its URL.

    SQLite runs in WAL mode with synchronous=FULL: what is committed survives a power cut. Its write transactions begin
    with BEGIN IMMEDIATE, so that two processes never deadlock on an upgrade from reading to writing.

    PostgreSQL has many writers at once, and each statement sees what is committed by then (READ COMMITTED): whoever
    decides by a row locks it first (``contourd.store.locks``).

    Raises
    ------
    NodeError
        The URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = postgresql.driver_url(url)
        if parsed.get_backend_name() == "sqlite":
            # What is written never stands in the text of an error.
            self.engine: Engine = create_engine(parsed, hide_parameters=True)
            event.listen(self.engine, "connect", _set_pragmas)
            event.listen(self.engine, "begin", _begin)
        else:
            self.engine = postgresql.open_engine(parsed, BUSY_TIMEOUT_MS)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite, and ``by_driver`` can be used."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session whose writes are committed together, or not at all; raises QueueUnavailable."""
        with self._available(), self._sessions.begin() as session:
            if self.is_sqlite:
                session.connection(execution_options={"contourd_begin": "IMMEDIATE"})
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that sees one consistent state and writes nothing; raises QueueUnavailable."""
        with self._available(), self._sessions() as session:
            if not self.is_sqlite:
                session.connection(execution_options=ONE_STATE)
            yield session

    @contextmanager
    def by_driver(self) -> Iterator[sqlite3.Cursor]:
        """Open a write transaction of SQLite's driver; what SQLAlchemy adds to a short one takes longer than it.

        Raises
        ------
        QueueUnavailable
            As for any transaction.
        sqlite3.IntegrityError
            What is written contradicts what is there.
        """
        with self._available(), closing(self.engine.raw_connection()) as connection:
            cursor: sqlite3.Cursor = connection.cursor()  # type: ignore[assignment]
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            _commit(connection)  # what was not is rolled back when the pool has it back

    @property
    def file(self) -> Path | None:
        """The file of SQLite; None for a server, and for a database in memory."""
        name = self.engine.url.database
        return Path(name) if self.is_sqlite and name and name != ":memory:" else None

    def probe(self) -> None:
        """Write what is there already, as durably as anything; raises QueueUnavailable."""
        with self.transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = version_num"))

    def prepare(self) -> None:
        """Make the tables of an empty database; refuse those of another version.

        Raises
        ------
        SchemaMismatch
            With the command that mends it.
        """
        if self.revision() is None:
            self.upgrade()
        self.check()

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeout, sqlite3.Error) as error:
            original = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(error, OURS) and (original is None or postgresql.is_ours(original)):
                raise
            raise QueueUnavailable(self._error_text(error)) from error

    def _error_text(self, error: Exception) -> str:
        message = "every connection is in use" if isinstance(error, PoolTimeout) else reason_of(error)
        if self.is_sqlite:
            meaning = next((meaning for words, meaning in MEANINGS if words in message), "")
        else:
            meaning = postgresql.meaning_of(getattr(error, "orig", None) or error)
        remedy = f"; {DAMAGED}" if meaning == "is damaged" else ""
        return f"the database {self.name} {meaning or f'cannot be used: {message}'}{remedy}"

    @property
    def name(self) -> str:
        """What to call it to a person: the file of SQLite, or the database and its host."""
        url = self.engine.url
        return str(url.database) if self.is_sqlite else f"{url.database} on {url.host or 'this machine'}"

    def examine(self) -> None:
        """Look for damage; a large database takes some seconds.

        Raises
        ------
        QueueUnavailable
            It is damaged or cannot be read; with the remedy.
        """
        if not self.is_sqlite:
            self._examine_server()
            return
        with self._available(), self.engine.connect() as connection:
            found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise QueueUnavailable(f"the database {self.engine.url.database} is damaged ({found}); {DAMAGED}")

    def _examine_server(self) -> None:
        """Refuse a server that the queue cannot be kept in; its disk is its own affair."""
        asked = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
        with self._available(), self.engine.connect() as connection:
            version, encoding = connection.execute(text(asked)).one()
        if version < postgresql.OLDEST_VERSION:
            raise QueueUnavailable(
                f"the database {self.name} is of PostgreSQL {version // 10000}; 13 or later is needed"
            )
        if encoding != "UTF8":
            raise QueueUnavailable(
                f"the database {self.name} is encoded as {encoding}; make another: createdb -E UTF8 -T template0"
            )

    def upgrade(self) -> None:
        """Bring the schema to this version's revision; a new database is made. All of it, or nothing.

        Raises
        ------
        SchemaMismatch
            The database was written by a newer contourd.
        """
        from alembic import command

        self._migrate(command.upgrade, "head")

    def downgrade(self, revision: str) -> None:
        """Bring the schema back to an older revision; what only newer ones hold is lost. All of it, or nothing.

        Raises
        ------
        SchemaMismatch
            As ``refuse_newer``, or the database was written by a newer contourd.
        """
        from alembic import command

        self.refuse_newer(revision)
        self._migrate(command.downgrade, revision)

    def refuse_newer(self, revision: str) -> None:
        """Refuse a revision that is not older than the database's.

        Raises
        ------
        SchemaMismatch
            It is not older, or there is no such revision.
        """
        current, known = self.revision(), revisions()
        if revision not in known:
            raise SchemaMismatch(f"there is no revision {revision}; there are: {', '.join(known)}")
        if current is None or (current in known and known.index(revision) >= known.index(current)):
            raise SchemaMismatch(f"the database is at revision {current}; revision {revision} is not older")

    def _migrate(self, step: Callable[[Config, str], None], revision: str) -> None:
        self.refuse_unknown()
        config = alembic_config()
        with self._available(), self.engine.connect() as connection:
            if not self.is_sqlite:  # of two nodes that start together one migrates, and the other finds it done
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})
            config.attributes["connection"] = connection
            step(config, revision)
            connection.commit()

    def refuse_unknown(self) -> None:
        """Refuse what a newer contourd wrote.

        Raises
        ------
        SchemaMismatch
            With the ways out.
        """
        current = self.revision()
        if current not in (None, SCHEMA_REVISION) and current not in revisions():  # alembic takes a while to load
            raise SchemaMismatch(
                f"the database is at revision {current}, which this version does not know: install the newer contourd "
                f"that wrote it, or let that one run `{command('db downgrade', SCHEMA_REVISION)}`, "
                f"or put a backup from before back: `{command('db restore', 'FILE')}`"
            )

    def check(self) -> None:
        """Refuse a schema that is not this version's.

        Raises
        ------
        SchemaMismatch
            With the command that mends it.
        """
        current = self.revision()
        if current is None:
            raise SchemaMismatch(f"the database is empty: `{command('serve')}` makes its tables")
        self.refuse_unknown()
        if current != SCHEMA_REVISION:
            raise SchemaMismatch(
                f"the database is at revision {current}, this version needs {SCHEMA_REVISION}: "
                f"stop contourd and run `{command('db upgrade')}`, which makes a backup first"
            )

    def revision(self) -> str | None:
        """Return the revision that the database is at, None for an empty one."""
        with self._available(), self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return revision

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def has_queue(database_url: str) -> bool:
    """Return whether there may be a queue: the file of SQLite is there, or a server is to be asked."""
    prefix = "sqlite:///"
    return not database_url.startswith(prefix) or Path(database_url.removeprefix(prefix)).exists()


def require_queue(database_url: str, spool: Path) -> None:
    """Refuse to make an empty database where there is none.

    Raises
    ------
    NodeError
        There is no queue yet.
    """
    if not has_queue(database_url):
        raise NodeError(f"there is no queue in {spool} yet; start it with `{command('serve')}`")


def _set_pragmas(connection: Any, record: object) -> None:  # noqa: ARG001
    connection.isolation_level = None  # SQLAlchemy's begin event says BEGIN, not the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Any) -> None:
    mode = connection.get_execution_options().get("contourd_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _commit(connection: PoolProxiedConnection) -> None:
    connection.commit()


def alembic_config() -> Config:
    """Point alembic at the migrations: inside the installed package, or beside it in a checkout."""
    from alembic.config import Config

    package = Path(__file__).resolve().parents[1]
    shipped = package / "migrations"
    config = Config()
    config.set_main_option("script_location", str(shipped if shipped.is_dir() else package.parent / "migrations"))
    return config


def revisions() -> tuple[str, ...]:
    """Name the revisions that this version knows, the oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    return tuple(reversed([script.revision for script in scripts]))


def reason_of(error: Exception) -> str:
    """Return what the database said; only its first line, for the next ones of PostgreSQL quote what was written."""
    original = error.orig if isinstance(error, DBAPIError) else error
    message = original if original is not None and not isinstance(original, SQLAlchemyError) else type(error).__name__
    return str(message).strip().split("\n", 1)[0]
