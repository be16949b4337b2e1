"""Storage commitments that senders ask contourd for (DICOM PS3.4 annex J): recorded, examined, reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from contourd.dicom.network.commitment_messages import (
    INVALID_ARGUMENT,
    NOT_AUTHORISED,
    RESOURCE_LIMITATION,
    CommitmentRequest,
    InstanceReference,
)
from contourd.errors import CommitmentRefused
from contourd.store.database import Database
from contourd.store.locks import lock_one, locked, take_turns
from contourd.store.states import RequestState, RetryPolicy
from contourd.store.tables import CommitmentRequestRow, InstanceRow, SeriesRow
from contourd.system.clock import Clock, utc_now

MOST_OPEN = 200  # of one sender
AT_ONCE = 500  # parameters of one SQL statement


@dataclass(frozen=True, slots=True)
class PendingReport:
    """A request whose report is due."""

    id: int
    request: CommitmentRequest
    attempts: int
    age_s: float
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance that was received; ``path`` is relative to the spool, ``sha256`` is of the dataset's bytes."""

    path: str
    sha256: str


class CommitmentRequests:
    """The requests of one database.

    Parameters
    ----------
    senders
        AE titles that can be called back.
    """

    def __init__(
        self, database: Database, policy: RetryPolicy, senders: Collection[str], clock: Clock = utc_now
    ) -> None:
        self._database = database
        self.policy = policy
        self._senders = frozenset(senders)
        self._now = clock

    def requested(self, calling_ae: str, request: CommitmentRequest) -> None:
        """Record a request; one that is sent again is answered again.

        Raises
        ------
        CommitmentRefused
            The sender is not in the settings, has too many requests open, or uses a transaction UID for something else.
        QueueUnavailable
            It cannot be recorded now.
        """
        if calling_ae not in self._senders:
            raise CommitmentRefused(NOT_AUTHORISED, f"no [[sender]] says where {calling_ae} is to be called back")
        with self._database.transaction() as session:
            self._record(session, calling_ae, request)

    def _record(self, session: Session, calling_ae: str, request: CommitmentRequest) -> None:
        instances = json.dumps([[r.sop_class_uid, r.sop_instance_uid] for r in request.references])
        take_turns(session, f"commitment requests of {calling_ae}")
        known = session.scalars(
            select(CommitmentRequestRow).where(
                CommitmentRequestRow.calling_ae == calling_ae,
                CommitmentRequestRow.transaction_uid == request.transaction_uid,
            )
        ).one_or_none()
        if known is not None:
            if known.instances not in (instances, _digest(instances)):
                raise CommitmentRefused(INVALID_ARGUMENT, "the transaction UID was used for other instances")
            known.instances = instances
            known.state = RequestState.PENDING
            known.reason = ""
            known.created_at = known.not_before = self._now()
            return
        open_ones = select(func.count()).select_from(CommitmentRequestRow).where(self._open(calling_ae))
        if (session.scalar(open_ones) or 0) >= MOST_OPEN:
            raise CommitmentRefused(
                RESOURCE_LIMITATION, f"{calling_ae} has {MOST_OPEN} requests that wait for a report"
            )
        session.add(
            CommitmentRequestRow(
                transaction_uid=request.transaction_uid,
                calling_ae=calling_ae,
                instances=instances,
                state=RequestState.PENDING,
                attempts=0,
                not_before=self._now(),
                created_at=self._now(),
            )
        )

    def recover(self) -> int:
        """Give up what nobody can be told: the sender is not in the settings any more. Returns how many."""
        orphans = CommitmentRequestRow.calling_ae.not_in(self._senders)
        with self._database.transaction() as session:
            rows = session.scalars(
                locked(select(CommitmentRequestRow).where(CommitmentRequestRow.state == RequestState.PENDING, orphans))
            ).all()
            for row in rows:
                row.state = RequestState.GIVEN_UP
                row.reason = "no [[sender]] says where to call it back"
                row.instances = _digest(row.instances)
            return len(rows)

    def fetch_request(self, calling_ae: str) -> PendingReport | None:
        """Return a sender's oldest request that is due, None where there is none."""
        now = self._now()
        latest = now + timedelta(seconds=self.policy.longest_s)
        due = or_(CommitmentRequestRow.not_before <= now, CommitmentRequestRow.not_before > latest)
        oldest = select(CommitmentRequestRow).where(self._open(calling_ae), due).order_by(CommitmentRequestRow.id)
        with self._database.reading() as session:
            row = session.scalars(oldest.limit(1)).first()
            if row is None:
                return None
            request = CommitmentRequest(
                row.transaction_uid, tuple(InstanceReference(*pair) for pair in json.loads(row.instances))
            )
            age_s = abs((now - row.created_at).total_seconds())
            return PendingReport(row.id, request, row.attempts, age_s, row.created_at)

    def find_stored(self, sop_instance_uids: Sequence[str]) -> dict[str, list[StoredInstance]]:
        """Look instances up: those that were received and not removed by retention."""
        found: dict[str, list[StoredInstance]] = {}
        with self._database.reading() as session:
            for first in range(0, len(sop_instance_uids), AT_ONCE):
                rows = select(InstanceRow).join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                named = InstanceRow.sop_instance_uid.in_(sop_instance_uids[first : first + AT_ONCE])
                for row in session.scalars(rows.where(named, SeriesRow.purged_at.is_(None))):
                    found.setdefault(row.sop_instance_uid, []).append(StoredInstance(row.path, row.sha256))
        return found

    def reported(self, request_id: int, text: str) -> None:
        """Record that the sender took the report."""
        self._end(request_id, RequestState.REPORTED, text)

    def give_up_requests(self, request_id: int, reason: str) -> None:
        """Record that the sender will not be told."""
        self._end(request_id, RequestState.GIVEN_UP, reason)

    def _end(self, request_id: int, state: RequestState, reason: str) -> None:
        with self._database.transaction() as session:
            row = lock_one(session, CommitmentRequestRow, request_id)
            row.state, row.reason, row.attempts = state, reason, row.attempts + 1
            row.instances = _digest(row.instances)

    def postpone_request(self, request_id: int, wait_s: float, reason: str) -> None:
        """Report later: the sender did not take it."""
        with self._database.transaction() as session:
            row = lock_one(session, CommitmentRequestRow, request_id)
            row.attempts, row.reason = row.attempts + 1, reason
            row.not_before = self._now() + timedelta(seconds=wait_s)

    def await_instances(self, request_id: int, wait_s: float) -> None:
        """Look again later: some instances may still be on their way."""
        with self._database.transaction() as session:
            lock_one(session, CommitmentRequestRow, request_id).not_before = self._now() + timedelta(seconds=wait_s)

    def postpone_all(self, calling_ae: str, wait_s: float, reason: str) -> None:
        """Postpone all requests of a sender by so long: it cannot be reached."""
        until = self._now() + timedelta(seconds=wait_s)
        with self._database.transaction() as session:
            session.execute(
                update(CommitmentRequestRow).where(self._open(calling_ae)).values(not_before=until, reason=reason)
            )

    def _open(self, calling_ae: str) -> ColumnElement[bool]:
        return (CommitmentRequestRow.state == RequestState.PENDING) & (CommitmentRequestRow.calling_ae == calling_ae)


def _digest(instances: str) -> str:
    """Stand in for the list of a request that is over: enough to know it by when it is sent again."""
    return f"sha256 {hashlib.sha256(instances.encode()).hexdigest()}"
