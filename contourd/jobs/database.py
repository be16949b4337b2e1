"""Engine, SQLite pragmas, transactions and the schema's revision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.orm import Session, sessionmaker

from contourd.errors import SchemaMismatch
from contourd.jobs.tables import SCHEMA_REVISION

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_MS = 30_000


class Database:
    """One database, SQLite or PostgreSQL by its URL.

    SQLite runs in WAL mode with synchronous=FULL: what is committed survives a power cut. Its write transactions begin
    with BEGIN IMMEDIATE, so that two processes never deadlock on an upgrade from reading to writing.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine: Engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _set_pragmas)
            event.listen(self.engine, "begin", _begin)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session whose writes are committed together, or not at all."""
        with self._sessions.begin() as session:
            if self.engine.dialect.name == "sqlite":
                session.connection(execution_options={"contourd_begin": "IMMEDIATE"})
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that sees one consistent state and writes nothing."""
        with self._sessions() as session:
            yield session

    def upgrade(self) -> None:
        """Bring the schema to this version's revision; a new database is made.

        Raises
        ------
        SchemaMismatch
            The database was written by a newer contourd.
        """
        from alembic import command

        config = alembic_config()
        current = self.revision()
        if current is not None and current not in known_revisions():
            raise SchemaMismatch(
                f"the database is at revision {current}, which this version does not know; "
                "install the newer contourd that wrote it, or restore its backup"
            )
        with self.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def check(self) -> None:
        """Refuse a schema that is not this version's.

        Raises
        ------
        SchemaMismatch
            With the command that mends it.
        """
        current = self.revision()
        if current != SCHEMA_REVISION:
            raise SchemaMismatch(
                f"the database is at revision {current}, this version needs {SCHEMA_REVISION}: run `contourd serve`"
            )

    def revision(self) -> str | None:
        """Return the revision that the database is at, None for an empty one."""
        with self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return revision

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def _set_pragmas(connection: Any, record: object) -> None:  # noqa: ARG001
    connection.isolation_level = None  # SQLAlchemy's begin event says BEGIN, not the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Any) -> None:
    mode = connection.get_execution_options().get("contourd_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def known_revisions() -> frozenset[str]:
    """Return the revisions that this version can bring up to its own."""
    from alembic.script import ScriptDirectory

    return frozenset(script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions())


def alembic_config() -> Config:
    """Point alembic at the migrations: inside the installed package, or beside it in a checkout."""
    from alembic.config import Config

    package = Path(__file__).resolve().parents[1]
    shipped = package / "migrations"
    config = Config()
    config.set_main_option("script_location", str(shipped if shipped.is_dir() else package.parent / "migrations"))
    return config
