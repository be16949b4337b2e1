"""Shadows: claim, renew, give back, end. Every write is one short transaction, and none touches the live job.

A shadow is claimed only where nothing else is to do: no job waits that the worker could do, no job is contoured on its
host, and no images arrive.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from contourd.errors import LeaseLost
from contourd.model.model_identity import ModelIdentity
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.contourings import Contouring, images_sha256, last_contouring
from contourd.store.database import Database
from contourd.store.locks import lock_row, locked
from contourd.store.shadow_tables import ShadowAgreementRow, ShadowRow, ShadowState
from contourd.store.states import JobState, SeriesState
from contourd.store.stored_files import within_reach
from contourd.store.tables import ContouringRow, InstanceRow, JobRow, ProcessRow, SeriesRow
from contourd.system.clock import AgeTracker, Clock, Monotonic, utc_now

# Of a job that is not contoured yet, or again; and of one that came to nothing.
NOT_YET, ENDED = (JobState.QUEUED, JobState.CONTOURING), (JobState.SUPERSEDED, JobState.CANCELLED)
# How many that lead nowhere are looked at together.
AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class ShadowClaim:
    """That a worker has a shadow, under a fencing token as of a job."""

    shadow_id: int
    job_id: int
    worker: str
    token: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """A claimed shadow: what contours it needs.

    Attributes
    ----------
    model
        As the route names it.
    images
        Path of each image, relative to the spool -> the hash of its dataset when it came.
    live
        What made the structure sets of the job.
    """

    claim: ShadowClaim
    model: str
    revision: int
    override: str
    images: dict[str, str]
    live: Contouring


@dataclass(frozen=True, slots=True)
class OrganAgreement:
    """How one organ of a shadow agrees with the live one.

    Attributes
    ----------
    live
        The model that drew the live organ, or that would have.
    dice, surface_dice, hausdorff_95_mm
        None where one of both did not draw it; the surface Dice within 2 mm.
    live_cc, shadow_cc
        Volumes; None where it was not drawn.
    """

    organ: str
    live: ModelIdentity
    dice: float | None
    surface_dice: float | None
    hausdorff_95_mm: float | None
    live_cc: float | None
    shadow_cc: float | None


class Shadows:
    """The shadows of one database.

    Parameters
    ----------
    host
        As of the queue: where images travel by an object store, the host that claims. Empty: every host has all images.
    """

    def __init__(
        self, database: Database, clock: Clock = utc_now, host: str = "", monotonic: Monotonic = time.monotonic
    ) -> None:
        self._database = database
        self._now = clock
        self._host = host
        self._leases = AgeTracker(clock, monotonic)

    def models_waiting(self) -> list[str]:
        """Return the models of shadows that wait, as routes name them; raises QueueUnavailable."""
        with self._database.reading() as session:
            waiting = select(ShadowRow.model).where(ShadowRow.state == ShadowState.WAITING).distinct()
            return list(session.scalars(waiting))

    def claim(
        self, worker: str, machine: str, lease_s: float, models: Collection[str], orders: Collection[str]
    ) -> Shadow | None:
        """Take the oldest shadow that can be contoured, None where there is none, or something else is to do.

        Parameters
        ----------
        machine
            The host of the worker, as of its row in ``processes``.
        models
            Those that the worker has.
        orders
            Those that the worker can do.
        """
        with self._database.transaction() as session:
            if not _is_quiet(session, machine, orders):
                return None
            waiting = (
                select(ShadowRow)
                .join(JobRow, JobRow.id == ShadowRow.job_id)
                .where(
                    ShadowRow.state == ShadowState.WAITING,
                    ShadowRow.model.in_(models),
                    JobRow.state.not_in((*NOT_YET, *ENDED)),
                    exists().where(ContouringRow.job_id == JobRow.id),
                )
            )
            if self._host:
                waiting = waiting.where(within_reach(self._host))
            oldest = waiting.order_by(ShadowRow.attempts, ShadowRow.id).limit(1)
            row = session.scalars(oldest.with_for_update(key_share=True, skip_locked=True, of=ShadowRow)).first()
            if row is None:
                return None
            if (reason := _in_vain(session, row)) is not None:
                self._end(row, ShadowState.DROPPED, reason)
                return None
            job = session.get_one(JobRow, row.job_id)
            live = last_contouring(session, job.id)
            assert live is not None
            row.state, row.reason = ShadowState.RUNNING, None
            row.attempts += 1
            row.claims += 1
            row.worker, row.updated_at = worker, self._now()
            row.lease_until = self._now() + timedelta(seconds=lease_s)
            stored = select(InstanceRow.path, InstanceRow.sha256).where(InstanceRow.series_id == job.series_id)
            images = session.execute(stored.order_by(InstanceRow.id)).all()
            claim = ShadowClaim(row.id, job.id, worker, row.claims)
            return Shadow(claim, row.model, job.revision, job.override, dict(images), live)

    def must_give_way(self, machine: str, orders: Collection[str]) -> bool:
        """Return whether a job waits, is contoured on the host, or images arrive; raises QueueUnavailable."""
        with self._database.reading() as session:
            return not _is_quiet(session, machine, orders, receiving=False)

    def renew(self, claim: ShadowClaim, lease_s: float) -> None:
        """Extend the lease; raises LeaseLost."""
        with self._database.transaction() as session:
            self._owned(session, claim).lease_until = self._now() + timedelta(seconds=lease_s)

    def give_back(self, claim: ShadowClaim, reason: Reason | None = None) -> None:
        """Let a claimed shadow wait again: the attempt does not count. Raises LeaseLost."""
        with self._database.transaction() as session:
            row = self._owned(session, claim)
            row.attempts = max(0, row.attempts - 1)
            self._end(row, ShadowState.WAITING, reason)

    def fail(self, claim: ShadowClaim, reason: Reason, max_attempts: int = 0) -> None:
        """Record that it failed; it waits again while its attempts are not spent. Raises LeaseLost."""
        with self._database.transaction() as session:
            row = self._owned(session, claim)
            self._fail(session, row, reason, max_attempts)

    def drop(self, claim: ShadowClaim, reason: Reason) -> None:
        """Record that there is nothing to contour any more; raises LeaseLost."""
        with self._database.transaction() as session:
            row = self._owned(session, claim)
            self._end(row, ShadowState.DROPPED, _in_vain(session, row) or reason)

    def finish(
        self,
        claim: ShadowClaim,
        model: ModelIdentity,
        output: str,
        output_sha256: str,
        agreements: Sequence[OrganAgreement],
    ) -> bool:
        """Record the structure set and how it agrees with the live one, together.

        Returns
        -------
        False where what it belongs to was removed meanwhile: the structure set is to be removed, too.

        Raises
        ------
        LeaseLost
            It is no longer this worker's.
        """
        with self._database.transaction() as session:
            row, now = self._owned(session, claim), self._now()
            if (reason := _in_vain(session, row)) is not None:
                self._end(row, ShadowState.DROPPED, reason)
                return False
            row.output, row.output_sha256 = output, output_sha256
            row.model_name, row.model_version, row.model_sha256 = model.name, model.version, model.sha256
            self._end(row, ShadowState.COMPARED, None)
            for one in agreements:
                session.add(_agreement(row, model, one, now))
            return True

    def drop_vain(self) -> int:
        """Drop what waits of jobs that came to nothing, or whose files are gone; returns how many were dropped."""
        dropped = 0
        with self._database.transaction() as session:
            gone = or_(
                JobRow.state.in_(ENDED),
                JobRow.purged_at.is_not(None),
                SeriesRow.purged_at.is_not(None),
                JobRow.revision < SeriesRow.corrected_revision,
                ~exists().where(InstanceRow.series_id == SeriesRow.id),
            )
            found = (
                select(ShadowRow)
                .join(JobRow, JobRow.id == ShadowRow.job_id)
                .join(SeriesRow, SeriesRow.id == JobRow.series_id)
                .where(ShadowRow.state == ShadowState.WAITING, gone)
                .order_by(ShadowRow.id)
                .limit(AT_ONCE)
            )
            for row in session.scalars(found.with_for_update(key_share=True, skip_locked=True, of=ShadowRow)):
                if (reason := _in_vain(session, row)) is not None:
                    self._end(row, ShadowState.DROPPED, reason)
                    dropped += 1
        return dropped

    def recover(self, lease_s: float, max_attempts: int) -> None:
        """Let wait again what a worker had that has ended, or whose lease stood still for its time."""
        with self._database.transaction() as session:
            rows = list(
                session.scalars(
                    locked(select(ShadowRow).where(ShadowRow.state == ShadowState.RUNNING).order_by(ShadowRow.id))
                )
            )
            alive = set(session.scalars(select(ProcessRow.id).where(ProcessRow.ended_at.is_(None))))
            for row in rows:
                until = row.lease_until or row.updated_at
                stood_s = self._leases.seen_s((row.id, row.claims), until)
                if row.worker not in alive or stood_s > lease_s:
                    how = "its worker has ended" if row.worker not in alive else "its lease was not renewed"
                    self._fail(session, row, Reason.of(HoldReason.WORKER_ENDED, how=how), max_attempts)
            self._leases.keep((row.id, row.claims) for row in rows)

    def _fail(self, session: Session, row: ShadowRow, reason: Reason, max_attempts: int) -> None:
        vain = _in_vain(session, row)
        if vain is not None:
            self._end(row, ShadowState.DROPPED, vain)
        else:
            self._end(row, ShadowState.FAILED if row.attempts >= max_attempts else ShadowState.WAITING, reason)

    def _end(self, row: ShadowRow, state: ShadowState, reason: Reason | None) -> None:
        row.state, row.reason, row.lease_until, row.updated_at = state, reason, None, self._now()

    def _owned(self, session: Session, claim: ShadowClaim) -> ShadowRow:
        row = lock_row(session, ShadowRow, claim.shadow_id)
        owner = (claim.worker, claim.token)
        if row is None or row.state != ShadowState.RUNNING or (row.worker, row.claims) != owner:
            raise LeaseLost(f"shadow {claim.shadow_id} is no longer {claim.worker}'s")
        return row


def _is_quiet(session: Session, machine: str, orders: Collection[str], receiving: bool = True) -> bool:
    """Return whether a worker has nothing else to do, and nobody else on its host.

    Parameters
    ----------
    receiving
        Whether images that arrive count, too.
    """
    there = select(JobRow.id)
    on_host = select(ProcessRow.id).where(ProcessRow.host == machine)
    busy: list[ColumnElement[bool]] = [
        (JobRow.state == JobState.QUEUED) & JobRow.contouring_order.in_({*orders, ""}),
        (JobRow.state == JobState.CONTOURING) & JobRow.worker.in_(on_host),
    ]
    if session.scalar(there.where(or_(*busy)).limit(1)) is not None:
        return False
    arriving = select(SeriesRow.id).where(SeriesRow.state == SeriesState.RECEIVING).limit(1)
    return not receiving or session.scalar(arriving) is None


def _in_vain(session: Session, row: ShadowRow) -> Reason | None:
    """Return why there is nothing to contour, or to compare with, any more; None where there is."""
    job = session.get_one(JobRow, row.job_id, populate_existing=True)
    series = session.get_one(SeriesRow, job.series_id, populate_existing=True)
    purged = series.purged_at or job.purged_at
    if purged is not None:
        return Reason.of(HoldReason.FILES_PURGED, on=f"{purged:%Y-%m-%d}")
    if job.state in ENDED:
        return job.reason or Reason(HoldReason.IMAGES_REPLACED)
    hashes = session.scalars(select(InstanceRow.sha256).where(InstanceRow.series_id == series.id)).all()
    live = last_contouring(session, job.id)
    other = live is not None and (len(hashes) != live.images or images_sha256(hashes) != live.images_sha256)
    if job.revision < series.corrected_revision or other:
        return Reason(HoldReason.IMAGES_REPLACED)
    return None


def _agreement(row: ShadowRow, model: ModelIdentity, one: OrganAgreement, at: datetime) -> ShadowAgreementRow:
    return ShadowAgreementRow(
        shadow_id=row.id,
        job_id=row.job_id,
        at=at,
        organ=one.organ,
        shadow_name=model.name,
        shadow_version=model.version,
        shadow_sha256=model.sha256,
        live_name=one.live.name,
        live_version=one.live.version,
        live_sha256=one.live.sha256,
        dice=one.dice,
        surface_dice=one.surface_dice,
        hausdorff_95_mm=one.hausdorff_95_mm,
        live_cc=one.live_cc,
        shadow_cc=one.shadow_cc,
    )
