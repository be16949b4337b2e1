"""What a person does to a job or a series: one transaction each, with a line in the audit trail that names the person.

The command line and the web page call the same methods. Who may call them is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.commands import command
from contourd.dicom.reading.patient_identity import refuse_names
from contourd.errors import InvalidTransition
from contourd.intake.newer_images import (
    foresee_release,
    foresee_replacement,
    images_of_series,
    remove_decided,
)
from contourd.intake.releasing import give_up, refuse_outdated, replace_within
from contourd.model.library import is_there
from contourd.model.model_names import LONGEST_TEXT, partial_rule, text_of_names
from contourd.models.activations import Activations
from contourd.models.orders import names_of_today
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.audit import AuditEntry, audit_row
from contourd.store.constancy_series import own_series
from contourd.store.contourings import models_of_jobs
from contourd.store.database import Database
from contourd.store.facets import file_destination
from contourd.store.first_images import image_of_job, image_of_series
from contourd.store.locks import lock_deliveries_of_job, lock_job, lock_row
from contourd.store.queue import Queue
from contourd.store.route_choice import RouteChoice
from contourd.store.states import (
    DELIVERIES_WAITING,
    DeliveryState,
    JobEvent,
    JobState,
    SeriesEvent,
    SeriesState,
    next_series_state,
)
from contourd.store.tables import ConstancySeriesRow, DeliveryRow, JobRow, SeriesRow
from contourd.store.transitions import (
    Why,
    add_delivery,
    add_job,
    advance_job,
    advance_series,
    record,
    release_delivery,
    withdraw_job,
)
from contourd.system.clock import Clock, utc_now
from contourd.transfer.copies import HERE_ALONE, Copies


class Operations:
    """What one person does. Each method raises InvalidTransition, in words, where the state does not allow it.

    A reason is kept where names have no place: one that names the patient raises PatientNamed, and nothing is done.

    Parameters
    ----------
    actor
        The person's name.
    root
        The spool's.
    copies
        Who has its files on this host.
    """

    def __init__(
        self, database: Database, actor: str, root: Path, clock: Clock = utc_now, copies: Copies = HERE_ALONE
    ) -> None:
        self._database = database
        self._actor = actor
        self._root = root
        self._copies = copies
        self._now = clock
        self._queue = Queue(database, clock)
        self._marks = SeriesJournal(root)

    def note(self, action: str, subject: str, detail: str = "") -> None:
        """Record something that changes no state, such as a look at the patient's name."""
        with self._database.transaction() as session:
            self._audit(session, action, subject, detail)

    def job_state(self, job_id: int) -> str:
        """Return how a job stands."""
        with self._database.reading() as session:
            return session.get_one(JobRow, job_id).state

    def series_state(self, series_id: int) -> str:
        """Return how a series stands."""
        with self._database.reading() as session:
            return session.get_one(SeriesRow, series_id).state

    def retry(self, job_id: int, override: str = "") -> None:
        """Contour a held or failed job again, or send what is on disk now; a cancelled job is taken up again.

        Parameters
        ----------
        override
            Why the model may run outside of its limits; it is kept, and written into the structure set.
        """
        reason = override.strip()
        self._refuse_names(reason, image_of_job(self._database, job_id))
        text = f"{reason} ({self._actor})" if reason else ""
        with self._database.transaction() as session:
            job = self._current(session, job_id)
            if job.state == JobState.CANCELLED:
                self._revive(session, job)
            else:
                self._queue.retry_job_within(session, job_id, text)
            self._audit(session, "override" if reason else "retry", f"job {job_id}", reason)
            uid = self._series_of(session, job).series_uid
        self._marks.clear(uid, JournalMark.PERSON)

    def _revive(self, session: Session, job: JobRow) -> None:
        series = self._series_of(session, job)
        if series.revision != job.revision:
            raise InvalidTransition(f"job {job.id} is of an older revision of its series; a newer job took its place")
        if series.purged_at is not None:
            raise InvalidTransition(f"retention removed the images of job {job.id}; send the series again")
        for row in self._deliveries(session, job.id):
            if row.state == DeliveryState.REFUSED:
                self._due(session, row)
        job.attempts = 0
        job.reason = None
        self._advance(session, job, JobEvent.REVIVE, f"taken up again by {self._actor}")

    def hold(self, job_id: int, reason: str) -> None:
        """Stop a job that is queued, contoured or sent until it is retried; what is being sent now may still arrive."""
        self._require(reason)
        self._refuse_names(reason, image_of_job(self._database, job_id))
        with self._database.transaction() as session:
            job = self._job(session, job_id)
            held = Reason.of(HoldReason.HELD_BY_PERSON, actor=self._actor, words=reason.strip())
            job.reason = held
            job.lease_until = None
            self._advance(session, job, JobEvent.HOLD, held)
            self._audit(session, "hold", f"job {job_id}", reason.strip())
            self._marks.add(JournalMark.PERSON, self._series_of(session, job).series_uid, held.dump_whole())

    def confirm(self, job_id: int) -> None:
        """Confirm a job whose pictures this person has seen: it is sent."""
        with self._database.transaction() as session:
            job = self._current(session, job_id)
            deliveries = self._deliveries(session, job_id)
            if job.state != JobState.CONFIRMING:
                raise InvalidTransition(f"job {job_id} does not wait for confirmation: it is {job.state}")
            job.reason = None
            job.confirmed_by = self._actor[:64]
            for row in deliveries:
                if row.state == DeliveryState.PENDING:
                    row.created_at = row.not_before = self._now()  # the time to give up begins now
            self._advance(session, job, JobEvent.CONFIRM, f"confirmed by {self._actor}")
            self._audit(session, "confirm", f"job {job_id}", "")

    def cancel(self, job_id: int, reason: str) -> None:
        """End a job; what was delivered stays delivered, and what is being sent now may still arrive."""
        self._require(reason)
        self._refuse_names(reason, image_of_job(self._database, job_id))
        with self._database.transaction() as session:
            job = self._job(session, job_id)
            cancelled = Reason.of(HoldReason.CANCELLED_BY_PERSON, actor=self._actor, words=reason.strip())
            withdraw_job(session, job, JobEvent.CANCEL, cancelled, self._now())
            self._audit(session, "cancel", f"job {job_id}", reason.strip())
            self._marks.add(JournalMark.PERSON, self._series_of(session, job).series_uid, cancelled.dump_whole())

    def resend(self, job_id: int, destination: str, profiles: Mapping[str, Mapping[str, str]]) -> None:
        """Send a job's products to another destination, or again to one that has them: the same UIDs.

        Where the destination's planning system needs another form of it, the job is contoured again, which gives the
        same contours.

        Parameters
        ----------
        profiles
            Destination -> each of its products -> identity of its profile, of all that the settings know.
        """
        if destination not in profiles:
            raise InvalidTransition(f"there is no destination {destination!r}; there are: {', '.join(profiles)}")
        with self._database.transaction() as session:
            job = self._current(session, job_id)
            deliveries = self._deliveries(session, job_id)
            if not deliveries:
                raise InvalidTransition(f"job {job_id} has no structure set to send: it is {job.state}")
            if job.purged_at is not None:
                raise InvalidTransition(f"retention removed the structure set of job {job_id}; send the series again")
            if destination not in job.destinations:
                job.destinations.append(destination)
                file_destination(session, job, destination)
            own = {d.product: d for d in deliveries if d.destination == destination}
            changed, missing = False, False
            for product, identity in profiles[destination].items():
                alike = [d for d in deliveries if (d.product, _identity(d, profiles)) == (product, identity)]
                if product in own:
                    changed |= self._send_again(session, own[product])
                elif alike:
                    self._add(session, job, destination, alike[0])
                    changed = True
                else:
                    missing = True
            if missing:
                self._rewrite(session, job, destination)
            elif changed:
                self._to_delivery(session, job, destination)
            self._audit(session, "resend", f"job {job_id}", f"to {destination}")

    def _send_again(self, session: Session, row: DeliveryRow) -> bool:
        """Send one again; returns whether it does not wait already."""
        if row.state in DELIVERIES_WAITING:
            row.not_before = self._now()  # of what was sent, storage commitment is asked for
            return False
        self._due(session, row)
        return True

    def _add(self, session: Session, job: JobRow, destination: str, alike: DeliveryRow) -> None:
        now = self._now()
        row = add_delivery(session, job, destination, alike.output, now, alike.product)
        record(session, "delivery", row.id, "added", row.state, f"by {self._actor}", now)

    def _to_delivery(self, session: Session, job: JobRow, destination: str) -> None:
        if job.state in (JobState.DELIVERING, JobState.CONFIRMING, JobState.HELD):
            return  # a held job sends with the others, when it is released
        job.reason = None
        self._advance(session, job, JobEvent.REDELIVER, f"to {destination}, by {self._actor}")

    def _rewrite(self, session: Session, job: JobRow, destination: str) -> None:
        if self._series_of(session, job).purged_at is not None:
            raise InvalidTransition(
                f"{destination} needs a structure set of its own, and retention removed the images of job {job.id}; "
                "send the series again"
            )
        job.attempts, job.reason, job.rewriting = 0, None, True
        self._advance(session, job, JobEvent.REWRITE, f"for {destination}, by {self._actor}")

    def recontour(self, job_id: int, *models: str) -> int:
        """Make a job of the same series, destinations and confirmation for other models; returns its number."""
        activations = Activations(self._database, self._root)
        found = [activations.find(model) for model in models]
        for one in found:
            if not is_there(one):
                raise InvalidTransition(
                    f"there is no model {one.asked!r}; give a name of `{command('models list')}`, or a folder"
                )
        if len(set(models)) < len(models) or len(text_of_names(models)) > LONGEST_TEXT:
            raise InvalidTransition("give each model once, by its name")
        with self._database.transaction() as session:
            job = self._current(session, job_id)
            series = self._series_of(session, job)
            if series.purged_at is not None:
                raise InvalidTransition(f"retention removed the images of job {job_id}; send the series again")
            if series.revision != job.revision:
                raise InvalidTransition(f"job {job_id} is of an older revision of its series; take the newer job")
            same = select(JobRow.id).where(
                JobRow.series_id == job.series_id,
                JobRow.revision == job.revision,
                JobRow.model == text_of_names(models),
            )
            if (known := session.scalar(same)) is not None:
                names = names_of_today(found, models_of_jobs(session, [known]).get(known, ()))
                if not names:
                    told = f"{', '.join(models)} is the model of job {known} already"
                    raise InvalidTransition(f"{told}; `{command('retry', known)}`")
                models = names
            route = Route(
                model=models,
                destinations=tuple(job.destinations),
                confirm=job.confirm,
                partial=partial_rule(job.partial),
            )
            choice, told = RouteChoice.from_json(job.route_choice), ", ".join(models)
            made = add_job(session, series, route, f"{told}, by {self._actor}", self._now(), choice)
            self._audit(session, "recontour", f"job {job_id}", f"with {told}: job {made.id}")
            return made.id

    def release_series(self, series_id: int, gapped_s: float, reason: str = "") -> str:
        """Examine a held series again at once: as if it had been quiet for ``gapped_s``.

        An interruption is forgiven, and with a reason also that images were refused, or came again with other content
        of the same patient; a gap or a wrong image is held again, and so is one whose sender nobody knows.

        Returns
        -------
        What becomes of it, in words.
        """
        self._refuse_names(reason, image_of_series(self._database, series_id))
        self._copies.bring(images_of_series(self._database, series_id))
        seen = foresee_release(self._database, self._root, series_id)
        with self._database.transaction() as session:
            series = self._series(session, series_id)
            given_up = give_up(session, series, reason.strip(), seen)
            self._release(session, series, gapped_s)
            self._audit(session, "release", f"series {series_id}", "; ".join(filter(None, (reason.strip(), given_up))))
            text = f"series {series_id} will be examined again"
            if not series.calling_ae:
                text += (
                    "; its sender is not known: where a route asks for it, it is held again until its sender sends it"
                )
        self._marks.clear(series.series_uid, JournalMark.INTERRUPTED, JournalMark.REFUSED, JournalMark.PERSON)
        remove_decided(self._database, self._root)
        return text

    def replace_images(self, series_id: int, gapped_s: float, reason: str) -> str:
        """Take the images that came again with other content in the place of the earlier ones, all at once.

        Returns
        -------
        What was done, and which structure sets of the earlier images were sent already.
        """
        self._require(reason)
        self._refuse_names(reason, image_of_series(self._database, series_id))
        self._copies.bring(images_of_series(self._database, series_id))
        foreseen = foresee_replacement(self._database, self._root, series_id)
        with self._database.transaction() as session:
            series = self._series(session, series_id)
            text = replace_within(session, self._queue, series, foreseen, self._root)
            self._release(session, series, gapped_s)
            self._audit(session, "replace", f"series {series_id}", f"{reason.strip()}; {text}")
        self._marks.clear(series.series_uid, JournalMark.INTERRUPTED, JournalMark.PERSON)
        remove_decided(self._database, self._root)
        return text

    def _series(self, session: Session, series_id: int) -> SeriesRow:
        series = lock_row(session, SeriesRow, series_id)
        if series is None:
            raise InvalidTransition(f"there is no series {series_id}")
        self._refuse_own(session, series_id, f"series {series_id}")
        next_series_state(SeriesState(series.state), SeriesEvent.RELEASE)
        return series

    def _release(self, session: Session, series: SeriesRow, gapped_s: float) -> None:
        now = self._now()
        advance_series(session, series, SeriesEvent.RELEASE, f"released by {self._actor}", now)
        series.reason = None
        series.interrupted = ""
        series.hold = None
        series.purged_images = 0
        series.last_instance_at = now - timedelta(seconds=gapped_s)

    def _require(self, reason: str) -> None:
        if not reason.strip():
            raise InvalidTransition("give a reason: it is shown to whoever looks at the job, and kept")

    def _refuse_names(self, reason: str, image: str | None) -> None:
        """Refuse a reason that names the patient of an image, where there is one."""
        if reason and image is not None:
            self._copies.bring([image])
            refuse_names(reason, self._root / image)

    def _series_of(self, session: Session, job: JobRow) -> SeriesRow:
        """Return a job's series, which is locked with it, so that retention leaves it alone meanwhile."""
        return session.get_one(SeriesRow, job.series_id)

    def _job(self, session: Session, job_id: int) -> JobRow:
        job = lock_job(session, job_id)
        if job is None:
            raise InvalidTransition(f"there is no job {job_id}")
        self._refuse_own(session, job.series_id, f"job {job_id}")
        return job

    def _current(self, session: Session, job_id: int) -> JobRow:
        """Return a job whose images were not corrected since."""
        job = self._job(session, job_id)
        refuse_outdated(session, job)
        return job

    def _refuse_own(self, session: Session, series_id: int, about: str) -> None:
        """Leave what a constancy check sent alone: it must go nowhere else."""
        if session.scalar(own_series().where(ConstancySeriesRow.series_id == series_id)) is not None:
            raise InvalidTransition(f"{about} is a constancy check's own; see `{command('constancy show')}`")

    def _deliveries(self, session: Session, job_id: int) -> list[DeliveryRow]:
        return lock_deliveries_of_job(session, job_id)

    def _due(self, session: Session, row: DeliveryRow) -> None:
        release_delivery(session, row, f"released by {self._actor}", self._now())

    def _advance(self, session: Session, job: JobRow, event: JobEvent, detail: Why) -> None:
        advance_job(session, job, event, detail, self._now())

    def _audit(self, session: Session, action: str, subject: str, detail: str) -> None:
        session.add(audit_row(self._now(), AuditEntry(self._actor, action, subject, detail)))


def _identity(row: DeliveryRow, profiles: Mapping[str, Mapping[str, str]]) -> str | None:
    """Return the identity of the profile that a delivery's product was written by, None where no setting says it."""
    return profiles.get(row.destination, {}).get(row.product)
