"""A further image of a series that is being received: what nearly every image is, written down in three statements.

They are SQLAlchemy's, compiled once for SQLite and run by its driver. PostgreSQL, where each statement is a way there
and back and another receiver may wait for the series' row meanwhile, is given two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Integer,
    Select,
    bindparam,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

from contourd.dicom.network.events import ReceivedInstance
from contourd.intake.verdicts import BROKEN_OFF, OPEN
from contourd.store.states import SeriesState
from contourd.store.tables import Table

SERIES, INSTANCES = Table.metadata.tables["series"], Table.metadata.tables["instances"]
STORED_FILES = Table.metadata.tables["stored_files"]
_KNOWN = select(INSTANCES.c.id).where(
    INSTANCES.c.series_id == SERIES.c.id, INSTANCES.c.sop_instance_uid == bindparam("sop_instance_uid")
)
_LAST = select(INSTANCES.c.id).where(INSTANCES.c.series_id == SERIES.c.id).limit(1).offset(bindparam("before_last"))


class _Prepared:
    """A statement as SQLite's driver takes it."""

    def __init__(self, statement: ClauseElement) -> None:
        dialect = sqlite.dialect()
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self._text = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        self._fixed = compiled.params
        self._converters: Mapping[str, Callable[[Any], Any]] = {
            name: convert
            for name, bound in compiled.binds.items()
            if (convert := bound.type.dialect_impl(dialect).bind_processor(dialect)) is not None
        }

    def run(self, cursor: sqlite3.Cursor, **values: Any) -> sqlite3.Cursor:
        """Run it with its parameters by name."""
        given = {**self._fixed, **values}
        for name, convert in self._converters.items():
            given[name] = convert(given[name])
        return cursor.execute(self._text, [given[name] for name in self._names])


_OPEN_SERIES = (
    SERIES.c.state == SeriesState.RECEIVING,
    SERIES.c.calling_ae != "",
    SERIES.c.purged_at.is_(None),
    *(SERIES.c.interrupted != word for word in BROKEN_OFF),
)
_FIND = _Prepared(
    select(SERIES.c.id, func.coalesce(_KNOWN.scalar_subquery(), _LAST.scalar_subquery())).where(
        SERIES.c.series_uid == bindparam("series_uid"), *_OPEN_SERIES
    )
)
_ADD = _Prepared(
    insert(INSTANCES).values(
        {name: bindparam(name) for name in ("series_id", "sop_instance_uid", "path", "sha256", "received_at")}
    )
)
_STORED = ("path", "object", "offset_bytes", "size_bytes", "sha256", "stored_at")
_ADD_STORED = _Prepared(insert(STORED_FILES).values({name: bindparam(name) for name in _STORED}))
_TOUCH = _Prepared(
    update(SERIES)
    .where(SERIES.c.id == bindparam("of_series"))
    .values(last_instance_at=bindparam("now"), interrupted=OPEN)
)


def add_further(cursor: sqlite3.Cursor, received: ReceivedInstance, most: int, now: datetime) -> bool:
    """Add an image to its series; False, and nothing is written, where there is more to decide about it.

    Parameters
    ----------
    most
        The number of images that a series may have.
    """
    found = _FIND.run(
        cursor,
        series_uid=received.series_instance_uid,
        sop_instance_uid=received.sop_instance_uid,
        before_last=most - 1,
    ).fetchone()
    if found is None:
        return False
    series, obstacle = found
    if obstacle is not None:
        return False
    _ADD.run(
        cursor,
        series_id=series,
        sop_instance_uid=received.sop_instance_uid,
        path=received.path,
        sha256=received.sha256,
        received_at=now,
    )
    if (stored := received.stored) is not None:
        _ADD_STORED.run(
            cursor,
            path=stored.path,
            object=stored.name,
            offset_bytes=stored.offset,
            size_bytes=stored.size_bytes,
            sha256=stored.sha256,
            stored_at=now,
        )
    _TOUCH.run(cursor, of_series=series, now=now)
    return True


@cache
def _by_two() -> tuple[Select[tuple[int]], Select[tuple[int]], Select[tuple[int]]]:
    """Return PostgreSQL's statements: one locks the series, one adds the image to it; the third one's is stored."""
    lock = select(SERIES.c.id).where(SERIES.c.series_uid == bindparam("series_uid"), *_OPEN_SERIES)
    series: BindParameter[int] = bindparam("of_series", type_=Integer)
    of_series = select(INSTANCES.c.id).where(INSTANCES.c.series_id == series)
    known = of_series.where(INSTANCES.c.sop_instance_uid == bindparam("sop_instance_uid"))
    last = of_series.limit(1).offset(bindparam("before_last", type_=Integer))
    given = {
        "series_id": series,
        **{name: bindparam(name, type_=INSTANCES.c[name].type) for name in ("sop_instance_uid", "path", "sha256")},
        "received_at": bindparam("now", type_=INSTANCES.c.received_at.type),
    }
    image = select(*given.values()).where(~known.exists(), ~last.subquery("last").select().exists())
    added = insert(INSTANCES).from_select(list(given), image).returning(INSTANCES.c.id).cte("added")
    touched = update(SERIES).where(SERIES.c.id == series, exists().where(added.c.id.is_not(None)))
    touched = touched.values(last_instance_at=given["received_at"], interrupted=OPEN)
    add = select(added.c.id).add_cte(touched.cte("touched"))
    where = {name: bindparam(f"stored_{name}", type_=STORED_FILES.c[name].type) for name in _STORED}
    kept = insert(STORED_FILES).from_select(list(where), select(*where.values()).select_from(added))
    return lock.with_for_update(key_share=True), add, add.add_cte(kept.cte("kept"))


def add_further_by_two(session: Session, received: ReceivedInstance, most: int, now: datetime) -> bool:
    """Do the same in PostgreSQL by two statements: so long, and for the commit, others wait for the series' row."""
    lock, add, add_stored = _by_two()
    session.flush()
    series = session.scalar(lock, {"series_uid": received.series_instance_uid})
    if series is None:
        return False
    values = {
        "of_series": series,
        "before_last": most - 1,
        "sop_instance_uid": received.sop_instance_uid,
        "path": received.path,
        "sha256": received.sha256,
        "now": now,
    }
    stored = received.stored
    if stored is None:
        return session.scalar(add, values) is not None
    of_store = (stored.path, stored.name, stored.offset, stored.size_bytes, stored.sha256, now)
    values |= {f"stored_{name}": value for name, value in zip(_STORED, of_store, strict=True)}
    return session.scalar(add_stored, values) is not None


def after_removal(purged_at: datetime | None, now: datetime) -> datetime:
    """Date an image after the removal of the earlier ones, whatever the clock says: so they are told apart."""
    return now if purged_at is None else max(now, purged_at + timedelta(milliseconds=1))
