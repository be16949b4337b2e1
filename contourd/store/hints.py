"""Hints from one process to others that there is something to do: PostgreSQL's NOTIFY, sent with the commit.

A hint may be lost, and several may come as one: whoever waits looks again after its timeout all the same. SQLite has
none: there the processes of the one node tell each other.
"""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from contourd.store.database import Database
from contourd.store.postgresql import driver_url, open_engine

JOBS, DELIVERIES = "contourd_jobs", "contourd_deliveries"


def hint(session: Session, channel: str) -> None:
    """Tell those that wait, once the caller's transaction is committed."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(select(func.pg_notify(channel, "")))


class Hints:
    """Waits for the hints of some channels; for one thread. In SQLite, and without a connection, only time passes."""

    def __init__(self, database: Database, *channels: str) -> None:
        self._channels = channels
        self._engine = None if database.is_sqlite else open_engine(driver_url(database.url), pool=NullPool)
        self._connection: Any = None

    def __enter__(self) -> Hints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a hint, or for so long; returns whether one came. Never raises for a database that is away."""
        if self._engine is None:
            time.sleep(timeout_s)
            return False
        until = time.monotonic() + timeout_s
        try:
            if self._connection is None:
                self._listen()
                return True  # what was told before is not known: look
            return any(True for _ in self._connection.notifies(timeout=timeout_s, stop_after=1))
        except (SQLAlchemyError, OSError, self._engine.dialect.loaded_dbapi.Error):
            self._hang_up()
            time.sleep(max(0.0, until - time.monotonic()))
            return False

    def close(self) -> None:
        """Listen no more."""
        self._hang_up()

    def _listen(self) -> None:
        assert self._engine is not None
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        self._connection = connection
        connection.autocommit = True
        for channel in self._channels:
            connection.execute(f"LISTEN {channel}")

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, Exception):
                connection.close()
