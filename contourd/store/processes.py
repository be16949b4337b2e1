"""The processes of a site: who serves and who works, on which host, since when, and whether they still do.

Each writes its own row at its start, under a name that is made anew, and a heartbeat from then on. Whether another one
is dead is judged by who shares its process numbers, and otherwise by a heartbeat that stands still: never by comparing
the clocks of two hosts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from contourd import __version__
from contourd.reasons.catalogue import Reason
from contourd.spool.watching import StoreStanding
from contourd.store.database import Database
from contourd.store.states import ProcessRole
from contourd.store.tables import ProcessRow
from contourd.system.clock import AgeTracker, Clock, Monotonic, utc_now
from contourd.system.identity import ProcessIdentity

BEAT_S = 5.0
# For how long the rows of processes that have ended are kept.
KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """What a process tells of its host with its heartbeat; None where it does not know, or has nothing of it.

    Attributes
    ----------
    disk_free_bytes, disk_size_bytes
        Of its spool's file system.
    store
        How the object store answers it.
    store_waiting
        Images that its host received and that are not in the object store yet.
    """

    disk_free_bytes: int | None = None
    disk_size_bytes: int | None = None
    store: StoreStanding | None = None
    store_waiting: int | None = None


NO_FIGURES = ProcessFigures()


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process that has not said that it ended.

    Attributes
    ----------
    parent
        Of a worker: the number of the process that watches over it; 0 of others.
    device
        Of a worker.
    cannot
        Orders that a worker does not take (``contourd.store.orders.order_digest``), each with the reason.
    """

    id: str
    role: ProcessRole
    identity: ProcessIdentity
    parent: int
    version: str
    device: str
    started_at: datetime
    heartbeat_at: datetime
    cannot: Mapping[str, Reason] = field(default_factory=dict)


class Processes:
    """The processes of one database, seen from this one."""

    def __init__(self, database: Database, clock: Clock = utc_now, monotonic: Monotonic = time.monotonic) -> None:
        self._database = database
        self._now = clock
        self._beats = AgeTracker(clock, monotonic)
        self._here = ProcessIdentity.own()

    def begin(self, name: str, role: ProcessRole, device: str = "") -> None:
        """Write down that this process runs, under a new name; raises QueueUnavailable.

        It may be asked again: the first time may have been written, and its answer lost.
        """
        now = self._now()
        with self._database.transaction() as session:
            session.execute(delete(ProcessRow).where(ProcessRow.ended_at < now - KEPT))
            row = ProcessRow(id=name, role=role, host=self._here.host, place=self._here.place, pid=self._here.pid)
            row.born = self._here.born
            row.parent = os.getppid() if role is ProcessRole.WORKER else 0
            row.version = __version__
            row.device = device
            row.started_at = row.heartbeat_at = now
            session.merge(row)

    def beat(self, name: str, figures: ProcessFigures = NO_FIGURES) -> None:
        """Write down that a process still runs; one that was taken for dead meanwhile is there again."""
        store = figures.store
        values = {
            "heartbeat_at": self._now(),
            "ended_at": None,
            "gone": False,
            "disk_free_bytes": figures.disk_free_bytes,
            "disk_size_bytes": figures.disk_size_bytes,
            "store_reachable": store.reachable if store else None,
            "store_since": store.since if store else None,
            "store_said": store.said if store else "",
            "store_waiting": figures.store_waiting,
        }
        with self._database.transaction() as session:
            session.execute(update(ProcessRow).where(ProcessRow.id == name).values(values))

    def decline(self, name: str, cannot: Mapping[str, Reason]) -> None:
        """Write down which orders a worker does not take, by their digests, and why."""
        written = json.dumps({digest: reason.dump_whole() for digest, reason in cannot.items()}) if cannot else ""
        with self._database.transaction() as session:
            session.execute(update(ProcessRow).where(ProcessRow.id == name).values(cannot=written))

    def end(self, name: str) -> None:
        """Write down that a process ended, or is known to have ended, with nothing left to do about it."""
        with self._database.transaction() as session:
            end_process(session, name, self._now())

    def end_as_gone(self, name: str) -> None:
        """Write down that a process is gone that did not say so."""
        with self._database.transaction() as session:
            end_process(session, name, self._now(), gone=True)

    def running(self) -> list[RunningProcess]:
        """Return those that have not ended, by host and start; raises QueueUnavailable."""
        with self._database.reading() as session:
            return read_running(session)

    def dead(
        self, running: Collection[RunningProcess], silent_s: float, certain: Collection[str] = ()
    ) -> list[RunningProcess]:
        """Return those that do not run any more.

        Parameters
        ----------
        silent_s
            For so long a heartbeat may stand still, as seen from here.
        certain
            Known to be dead from elsewhere.
        """
        ended = {
            one.id
            for one in running
            if one.id in certain
            or one.identity.has_ended(self._here)
            or self._beats.seen_s(one.id, one.heartbeat_at) > silent_s
        }
        self._beats.keep(one.id for one in running)
        parents = {(one.identity.place, one.identity.pid) for one in running if one.id in ended}
        return [one for one in running if one.id in ended or (one.identity.place, one.parent) in parents]

    def is_of_this_host(self, one: RunningProcess) -> bool:
        """Return whether a process is, or was, one of the host that this one runs on."""
        return one.identity.host == self._here.host

    def is_own(self, one: RunningProcess) -> bool:
        """Return whether a process is this one, or watched over by it."""
        return one.identity.place == self._here.place and self._here.pid in (one.identity.pid, one.parent)

    def forget_beats(self) -> None:
        """Let every heartbeat count anew: nobody could write one."""
        self._beats.clear()


def end_process(session: Session, name: str, at: datetime, gone: bool = False) -> None:
    """Write down that a process does not run any more; ``gone``: it did not say so, and nobody watched over it."""
    running = ProcessRow.id == name, ProcessRow.ended_at.is_(None)
    session.execute(update(ProcessRow).where(*running).values(ended_at=at, gone=gone))


def read_running(session: Session) -> list[RunningProcess]:
    """Read those that have not ended inside the caller's transaction."""
    rows = session.scalars(select(ProcessRow).where(ProcessRow.ended_at.is_(None)))
    return [process_of(row) for row in sorted(rows, key=lambda row: (row.host, row.role, row.started_at, row.id))]


def figures_of(row: ProcessRow) -> ProcessFigures:
    """Return what a row's process told of its host last; of a version that tells nothing, nothing."""
    store = None
    if row.store_reachable is not None and row.store_since is not None:
        store = StoreStanding(row.store_reachable, row.store_since, row.store_said)
    return ProcessFigures(row.disk_free_bytes, row.disk_size_bytes, store, row.store_waiting)


def process_of(row: ProcessRow) -> RunningProcess:
    """Return a row as a value."""
    cannot = {
        digest: reason
        for digest, written in (json.loads(row.cannot) if row.cannot else {}).items()
        if (reason := Reason.read_whole(written)) is not None
    }
    return RunningProcess(
        row.id,
        ProcessRole(row.role),
        ProcessIdentity(row.host, row.place, row.pid, row.born),
        row.parent,
        row.version,
        row.device,
        row.started_at,
        row.heartbeat_at,
        cannot,
    )
