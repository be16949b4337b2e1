"""PostgreSQL by psycopg 3: its URL, how a connection is set up, and what its errors mean to a person."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from contourd.errors import NodeError

SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
OLDEST_VERSION = 130000  # as the server counts: 13
CONNECT_S = 10
LOCK_TIMEOUT_MS = 10_000
# A connection that was used so lately is used again unasked: to ask takes as long as any statement.
IDLE_S = 1.0
USED = "used"  # of a connection, when it was
# Each connection: how soon the server finds that its host is gone (tcp(7)), and how it is spoken to.
SESSION = (
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("timezone", "UTC"),
)
# What the program may be told without being at fault: it may not do it, or a table is not there, or is.
NOT_OURS = ("42501", "42P01", "42P07")
# The class, or the whole, of an SQLSTATE (PostgreSQL's appendix A) -> what it means to the person who reads it.
OF_SQLSTATE: Mapping[str, str] = MappingProxyType(
    {
        "25006": "is read-only: the server is a standby; name the primary in database.url",
        "40001": "is changed by others at the same moment; it is tried again",
        "40P01": "is changed by others at the same moment; it is tried again",
        "42501": "does not let this user do it; make the user of database.url the owner of the database",
        "53100": "finds no space on its disk",
        "53200": "finds no memory on its server",
        "53300": "has no connection left; raise max_connections of the server",
        "55P03": "is locked by another program",
        "57": "is being stopped or started",
        "58": "cannot be read or written: the server's disk reports an error",
        "XX001": "is damaged on the server's disk; put its latest backup back",
        "XX002": "is damaged on the server's disk; put its latest backup back",
    }
)
# What is said where no connection came about, for which there is no SQLSTATE.
OF_CONNECTING = (
    ("password authentication failed", "does not take the password or user of database.url"),
    ("no password supplied", "wants a password; put it into database.url"),
    ("does not exist", "is not on its server, or its user is not; make them: createuser, createdb"),
    ("pg_hba.conf", "does not let this host or user in; see pg_hba.conf of the server"),
    ("too many", "has no connection left; raise max_connections of the server"),
    ("remaining connection slots", "has no connection left; raise max_connections of the server"),
    ("starting up", "is being stopped or started"),
    ("shutting down", "is being stopped or started"),
    ("in recovery mode", "is being stopped or started"),
    ("read-only", "is read-only: the server is a standby; name the primary in database.url"),
    ("does not support SSL", "is not reached by TLS, which sslmode of database.url asks for"),
    ("certificate", "is not reached by TLS: its certificate does not fit sslmode and sslrootcert of database.url"),
    ("resolve host", "cannot be reached: the host of database.url has no address"),
    ("translate host", "cannot be reached: the host of database.url has no address"),
    ("refused", "cannot be reached: nothing listens at the host and port of database.url"),
    ("No such file", "cannot be reached: nothing listens at the host and port of database.url"),
    ("timeout", "cannot be reached: its server does not answer"),
    ("timed out", "cannot be reached: its server does not answer"),
    ("No route", "cannot be reached: its server does not answer"),
    ("unreachable", "cannot be reached: its server does not answer"),
    ("closed the connection", "was lost: its server ended the connection"),
    ("connection is lost", "was lost: its server ended the connection"),
    ("connection is closed", "was lost: its server ended the connection"),
    ("connection failed", "cannot be reached"),
)


def driver_url(url: str) -> URL:
    """Return a URL of the settings as SQLAlchemy takes it: PostgreSQL is spoken to by psycopg.

    Raises
    ------
    NodeError
        It is no URL, or one whose parts are not what they seem. No part of it is quoted: it holds the password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise NodeError(
            "database.url cannot be read; it is postgresql://USER:PASSWORD@HOST/DATABASE, and in a password each of "
            "@ : / ? # % is written as a percent sign and its two hexadecimal digits (@ is %40)"
        )
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername in SCHEMES else parsed


def open_engine(url: URL, lock_timeout_ms: int = LOCK_TIMEOUT_MS, pool: type[Pool] | None = None) -> Engine:
    """Make an engine whose connections read only what is committed, and are replaced where the server was restarted.

    Parameters
    ----------
    lock_timeout_ms
        How long a statement waits for the lock of a row.
    pool
        What keeps the connections; None: SQLAlchemy's usual one.

    Raises
    ------
    NodeError
        The driver is not installed.
    """
    arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}
    try:
        engine = create_engine(
            url,
            hide_parameters=True,  # what is written never stands in the text of an error
            isolation_level="READ COMMITTED",
            poolclass=pool,
            connect_args={"application_name": "contourd", "client_encoding": "utf8", **arguments},
        )
    except ImportError as error:
        if url.get_backend_name() != "postgresql":
            raise
        raise NodeError("PostgreSQL needs its driver: pip install 'contourd[postgres]'") from error
    settings = ", ".join(f"set_config('{n}', '{v}', false)" for n, v in (*SESSION, ("lock_timeout", lock_timeout_ms)))
    event.listen(engine, "connect", lambda connection, record: _set_up(connection, settings))
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_replace_dead, engine.dialect))
    return engine


def _note_use(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
    record.info[USED] = time.monotonic()


def _replace_dead(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:  # noqa: ARG001
    """Have the pool open another connection where one that has lain idle is dead, as after a restart of the server."""
    if time.monotonic() - record.info.get(USED, math.inf) < IDLE_S and not _is_told(connection):
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _is_told(connection: Any) -> bool:
    """Return whether the server has sent something unasked, as its farewell."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _set_up(connection: Any, settings: str) -> None:
    from psycopg.types.string import StrDumper

    class WithoutNul(StrDumper):
        """PostgreSQL keeps no NUL in a text, and peers may send one."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    connection.adapters.register_dumper(str, WithoutNul)
    connection.execute(f"SELECT {settings}")
    connection.commit()


def meaning_of(error: Exception) -> str:
    """Return what an error of psycopg means to a person; empty where that is not known."""
    state = getattr(error, "sqlstate", None) or ""
    if state:
        return OF_SQLSTATE.get(state) or OF_SQLSTATE.get(state[:2], "")
    return next((meaning for words, meaning in OF_CONNECTING if words in str(error)), "")


def is_ours(error: Exception) -> bool:
    """Return whether an error that SQLAlchemy counts among the program's faults is the server's after all."""
    return getattr(error, "sqlstate", None) not in NOT_OURS
