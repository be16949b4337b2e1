"""Who alone does what is done once for all hosts: an advisory lock of PostgreSQL, held by a connection of its own.

The lock is the server's: it is free again the moment that its holder's connection ends, and a host that is gone without
a word is noticed by the server's keepalives in seconds (``contourd.store.postgresql``). The holder asks its connection
each time that it wants to act: one that broke leads no more, and finds that out before the server gives the lock away
only if it asks; so whatever a leader writes is decided by rows that it locks, as everything else is.

SQLite has one node, whose lock is that of its spool: there it always leads.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from sqlalchemy import Connection
from sqlalchemy import text as sql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from contourd.store.database import Database
from contourd.store.postgresql import driver_url, open_engine

log = logging.getLogger(__name__)

LEADING = 0x6C656164  # the advisory lock's key


class Leadership:
    """One process's part in it; used by several threads.

    Parameters
    ----------
    key
        Of what is led: one leader for each.
    """

    def __init__(self, database: Database, key: int = LEADING) -> None:
        self._always = database.is_sqlite
        self._key = key
        self._engine = None if self._always else open_engine(driver_url(database.url), pool=NullPool)
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def leads(self) -> bool:
        """Return whether this process leads now, after it has tried to; never raises."""
        if self._always:
            return True
        with self._lock:
            try:
                return self._holds() or self._takes()
            except (SQLAlchemyError, OSError) as error:
                self._let_go("leads no more: its connection to the database was lost", error)
                return False

    def resign(self) -> None:
        """Let another process lead."""
        with self._lock:
            self._let_go("leads no more")

    def close(self) -> None:
        """Resign, and hold no connection any more."""
        self.resign()
        if self._engine is not None:
            self._engine.dispose()

    def _holds(self) -> bool:
        """Ask the connection, which has the lock as long as it lives."""
        if self._connection is None:
            return False
        self._connection.execute(sql("SELECT 1"))
        self._connection.commit()
        return True

    def _takes(self) -> bool:
        assert self._engine is not None
        connection = self._engine.connect()
        try:
            taken = bool(connection.scalar(sql("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}))
            connection.commit()
            if taken:
                self._connection = connection
                log.info("leads: what is done once for all hosts is done here", extra={"action": "lead"})
        finally:
            if self._connection is None:
                connection.close()
        return taken

    def _let_go(self, text: str, error: Exception | None = None) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            log.log(logging.WARNING if error else logging.INFO, "%s", text, extra={"action": "lead"})
            with suppress(SQLAlchemyError, OSError):
                connection.invalidate()  # its end frees the lock
            with suppress(SQLAlchemyError, OSError):
                connection.close()
