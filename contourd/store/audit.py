"""The audit trail: who did what, appended and never changed; the database itself refuses anything else.

What operators do and what a start finds is written at once. What peers do is noted in memory and written by ``flush``
in one transaction, so that no association waits for the disk, and a failure here never costs an image. The same deed of
one peer is written at once and then counted, so that a flood of connections becomes one row a minute.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from contourd.errors import QueueUnavailable
from contourd.store.database import Database
from contourd.store.tables import AuditRow
from contourd.system.clock import Clock, utc_now

log = logging.getLogger(__name__)

NODE = "contourd"
CONFIGURATION, MODEL = "configuration", "model"
WINDOW_S = 60.0
# Kinds of one action within one window, beyond which they are counted together; rows that wait for the database.
MOST_KINDS, MOST_WAITING = 100, 10_000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What is audited.

    Attributes
    ----------
    actor
        ``contourd``, a calling AE title, or an operator's user name.
    subject
        As ``job 12``, ``model hn7``, ``peer 10.1.2.3``.
    times
        How often it was done, where one line stands for several.
    """

    actor: str
    action: str
    subject: str = ""
    detail: str = ""
    times: int = 1


@dataclass(slots=True)
class _Repeated:
    since: datetime
    more: int = 0


@dataclass(slots=True)
class _Waiting:
    """What is not in the database yet; ``lost`` is what there was no room for."""

    rows: deque[tuple[datetime, AuditEntry]] = field(default_factory=deque)
    seen: dict[AuditEntry, _Repeated] = field(default_factory=dict)
    lost: int = 0


class AuditTrail:
    """The trail of one database; ``most_waiting`` rows are kept for one that does not take them now."""

    def __init__(self, database: Database, clock: Clock = utc_now, most_waiting: int = MOST_WAITING) -> None:
        self._database = database
        self._now = clock
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._waiting = _Waiting()
        self._failing = False

    def record(self, deed: AuditEntry) -> None:
        """Write a deed now.

        Raises
        ------
        QueueUnavailable
            The database does not take it.
        """
        with self._database.transaction() as session:
            session.add(audit_row(self._now(), deed))

    def note(self, action: str, peer: str, calling_ae: str, detail: str) -> None:
        """Record what a peer did; it is written by the next ``flush``. Never waits and never raises.

        Parameters
        ----------
        calling_ae
            Empty where the peer did not get so far as to give one.
        """
        actor = "".join(c if c.isprintable() else "?" for c in calling_ae.strip() or peer)
        deed = AuditEntry(actor[:64], action, f"peer {peer}"[:64], detail)
        with self._lock:
            waiting = self._waiting
            if deed not in waiting.seen and sum(d.action == action for d in waiting.seen) >= MOST_KINDS:
                deed = AuditEntry("several", action, "other peers")
            if deed in waiting.seen:
                waiting.seen[deed].more += 1
                return
            waiting.seen[deed] = _Repeated(self._now())
            self._append(deed)

    def _append(self, deed: AuditEntry) -> None:
        if len(self._waiting.rows) >= self._most_waiting:
            self._waiting.lost += 1
        else:
            self._waiting.rows.append((self._now(), deed))

    def flush(self) -> None:
        """Write what was noted; what the database does not take waits for the next time."""
        with self._lock:
            self._count(WINDOW_S)
        self._write()

    def close(self) -> None:
        """Write all, also the counts whose minute is not over."""
        with self._lock:
            self._count(0.0)
            self._waiting.seen.clear()
        self._write()

    def _write(self) -> None:
        with self._lock:
            rows, lost = list(self._waiting.rows), self._waiting.lost
        gap = [(self._now(), AuditEntry(NODE, "audit gap", "", f"{lost} entries were lost"))] if lost else []
        if not rows:
            return
        try:
            with self._database.transaction() as session:
                session.add_all(audit_row(at, deed) for at, deed in (*rows, *gap))
        except QueueUnavailable as error:
            if not self._failing:
                log.error("the audit trail waits: %s", error, extra={"action": "audit"})
            self._failing = True
            return
        self._failing = False
        with self._lock:
            self._waiting.lost -= lost
            for _ in rows:
                self._waiting.rows.popleft()

    def _count(self, window_s: float) -> None:
        """Append the counts of the windows that have passed; one in which nothing came again ends."""
        now = self._now()
        for deed, repeated in list(self._waiting.seen.items()):
            passed_s = (now - repeated.since).total_seconds()
            if 0 <= passed_s < window_s:
                continue  # a clock that jumped back ends the window
            del self._waiting.seen[deed]
            if repeated.more:
                text = f"{repeated.more} more since {repeated.since:%H:%M:%S} UTC"
                again = "; ".join(filter(None, [deed.detail, text]))
                self._append(AuditEntry(deed.actor, deed.action, deed.subject, again, repeated.more))
                self._waiting.seen[deed] = _Repeated(now)

    def record_configuration(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """Record which keys differ from those of the last start; returns their names, none at the first start.

        Parameters
        ----------
        keys
            Key -> its value as text, without secrets.

        Raises
        ------
        QueueUnavailable
            The database does not take it.
        """
        before: dict[str, str | None] = {}
        for detail in self._details(CONFIGURATION, ""):
            before |= {key: new for key, (_, new) in json.loads(detail).items()}
        changed = {
            key: (before.get(key), keys.get(key))
            for key in sorted({*before, *keys})
            if before.get(key) != keys.get(key)
        }
        if changed:
            self.record(AuditEntry(NODE, CONFIGURATION, "", json.dumps(changed)))
        return tuple(changed) if before else ()

    def record_model(self, model: str, version: str, sha256: str) -> None:
        """Record a model, by its name or folder as the settings give it, if it is not the one that was there last.

        Raises
        ------
        QueueUnavailable
            The database does not take it.
        """
        subject = f"model {model.rstrip('/').rpartition('/')[2]}"[:64]
        known = [one for detail in self._details(MODEL, subject) if (one := json.loads(detail))["model"] == model]
        before = known[-1]["sha256"] if known else None
        if before != sha256:
            content = {"model": model, "version": version, "sha256": sha256, "before": before}
            self.record(AuditEntry(NODE, MODEL, subject, json.dumps(content)))

    def _details(self, action: str, subject: str) -> list[str]:
        wanted = select(AuditRow.detail).where(AuditRow.action == action, AuditRow.subject == subject)
        with self._database.reading() as session:
            return list(session.scalars(wanted.order_by(AuditRow.id)))


def audit_row(at: datetime, deed: AuditEntry) -> AuditRow:
    """Make the row of a deed, for a transaction of the trail's own or that of what is done."""
    return AuditRow(
        at=at,
        actor=deed.actor[:64],
        action=deed.action[:32],
        subject=deed.subject[:64],
        detail=deed.detail,
        times=deed.times,
    )
