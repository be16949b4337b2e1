"""What is done with what came back, one after the other: read, paired with its job, compared, written down.

One node of those that share a database does it (its leader), in a process of low priority that is asked for each step.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from contourd.dicom.reading.series import gate, read_instance
from contourd.errors import ReviewUnusable, SeriesUnusable
from contourd.imaging.written_grid import written_grid
from contourd.profiles import RTSTRUCT, Profile
from contourd.reasons.catalogue import HoldReason
from contourd.reviews.asking import Plain, Stopped, ask
from contourd.reviews.pairing import DraftContents, choose
from contourd.reviews.reading import ReviewContents
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.constancy_series import own_series
from contourd.store.contourings import Contouring, last_contouring, written_profiles
from contourd.store.database import Database
from contourd.store.locks import lock_one
from contourd.store.review_tables import ReviewOrganRow, ReviewRow
from contourd.store.states import JobState, OrganFate, ReviewEvent, ReviewState
from contourd.store.tables import AttemptRow, ContouringRow, DeliveryRow, InstanceRow, JobRow, SeriesRow
from contourd.store.transitions import advance_review
from contourd.system.clock import Clock, utc_now
from contourd.transfer.copies import Copies

log = logging.getLogger(__name__)

AT_ONCE = 20
# Images and series by which a CT is looked for; a structure set names more of its images than are needed for that.
MOST_NAMED, MOST_SERIES, MOST_DRAFTS = 400, 20, 10
# What may fit a job that is still to come.
WAITING = (HoldReason.REVIEW_OF_NO_SERIES, HoldReason.REVIEW_BEFORE_ITS_JOB)
LEFT = (
    *WAITING,
    *(HoldReason.REVIEW_OTHER_PATIENT, HoldReason.REVIEW_OTHER_STUDY, HoldReason.REVIEW_OTHER_FRAME),
    *(HoldReason.REVIEW_FITS_SEVERAL, HoldReason.REVIEW_DRAFT_GONE),
)
ENDED = (JobState.SUPERSEDED, JobState.CANCELLED)
ACCEPTED = "accepted"
Ask = Callable[[Plain, threading.Event], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Made:
    """A job that was contoured, as its rows have it.

    Attributes
    ----------
    outputs
        Destination -> its structure set, relative to the spool.
    taken
        Destination -> when it took it first.
    """

    job_id: int
    ended: bool
    destinations: tuple[str, ...]
    contouring: Contouring
    outputs: Mapping[str, str]
    taken: Mapping[str, datetime]
    images: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        """Its structure sets: those that its deliveries name, and that it wrote."""
        others = {path for path, profile in _profiles(self.contouring).items() if profile.product != RTSTRUCT}
        written = (output.path for output in self.contouring.outputs if output.path not in others)
        return list(dict.fromkeys((*self.outputs.values(), *written)))


class Reviews:
    """Pairs and compares; for one thread."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        spool: Spool,
        copies: Copies,
        stopping: threading.Event,
        clock: Clock = utc_now,
        asking: Ask = ask,
    ) -> None:
        self._settings = settings
        self._database = database
        self._spool = spool
        self._copies = copies
        self._stopping = stopping
        self._now = clock
        self._ask = asking

    def run(self) -> None:
        """Do what is to be done.

        Raises
        ------
        QueueUnavailable, SpoolError
            It goes on the next time.
        """
        try:
            for review_id, path in self._due():
                self._step(review_id, path, self._pair)
            for review_id, path in self._paired():
                self._step(review_id, path, self._compare)
        except Stopped:
            return

    def _step(self, review_id: int, path: str, step: Callable[[int, str], None]) -> None:
        """Take one step with one structure set; what refuses it is written down."""
        if self._copies.missing([path]):
            return  # another host has it, and has not stored it yet
        self._copies.bring([path])
        try:
            step(review_id, path)
        except ReviewUnusable as error:
            event = ReviewEvent.LEAVE if error.reason.code in LEFT else ReviewEvent.REFUSE
            with self._database.transaction() as session:
                row = lock_one(session, ReviewRow, review_id)
                row.tried_at = self._now()
                same = event is ReviewEvent.LEAVE and row.state == ReviewState.UNPAIRED and row.reason == error.reason
                if event is ReviewEvent.LEAVE and row.state == ReviewState.PAIRED:
                    event = ReviewEvent.REFUSE  # its draft went meanwhile
                if not same:
                    advance_review(session, row, event, error.reason, self._now())
                    log.warning("a structure set is not compared: %s", error, extra=_where(review_id))

    def _due(self) -> list[tuple[int, str]]:
        """Return what was not read yet, and what waits for its job where one of its patient was contoured since."""
        newer = (
            select(ContouringRow.id)
            .join(JobRow, JobRow.id == ContouringRow.job_id)
            .join(SeriesRow, SeriesRow.id == JobRow.series_id)
            .where(SeriesRow.patient == ReviewRow.patient, ContouringRow.at > ReviewRow.tried_at)
        )
        waiting = (ReviewRow.state == ReviewState.UNPAIRED) & ReviewRow.reason_code.in_(WAITING) & newer.exists()
        due = or_(ReviewRow.state == ReviewState.RECEIVED, waiting), ReviewRow.purged_at.is_(None)
        return self._numbers(*due)

    def _paired(self) -> list[tuple[int, str]]:
        return self._numbers(ReviewRow.state == ReviewState.PAIRED, ReviewRow.purged_at.is_(None))

    def _numbers(self, *which: Any) -> list[tuple[int, str]]:
        wanted = select(ReviewRow.id, ReviewRow.path).where(*which).order_by(ReviewRow.id).limit(AT_ONCE)
        with self._database.reading() as session:
            return [(number, path) for number, path in session.execute(wanted)]

    def _read(self, path: str) -> ReviewContents:
        answer = self._ask({"read": str(self._spool.root / path)}, self._stopping)
        return ReviewContents.of(answer["contents"])

    def _pair(self, review_id: int, path: str) -> None:
        """Find the job of a structure set, and write down what it says of its review."""
        contents = self._read(path)
        self._describe(review_id, contents)
        with self._database.reading() as session:
            series = _series_of(session, contents, session.get_one(ReviewRow, review_id).patient)
            made = _made_of(session, series)
        if not made:
            code = HoldReason.REVIEW_BEFORE_ITS_JOB if series else HoldReason.REVIEW_OF_NO_SERIES
            raise ReviewUnusable(code)
        drafts = [
            DraftContents(one.job_id, read[0], one.ended, bool(one.taken), frozenset(draft.uid for draft in read))
            for one in made
            if (read := [self._read(found) for found in self._draft_paths(one)])
        ]
        if not drafts:
            raise ReviewUnusable(HoldReason.REVIEW_DRAFT_GONE, job=made[0].job_id)
        job_id = choose(contents, drafts).job_id
        (chosen,) = (one for one in made if one.job_id == job_id)
        with self._database.transaction() as session:
            row = lock_one(session, ReviewRow, review_id)
            row.job_id, row.tried_at = job_id, self._now()
            row.destination = self._destination(row.calling_ae, chosen.destinations)
            row.delivered_at = _delivered_at(chosen, row.destination)
            model = chosen.contouring.model
            row.model_name, row.model_version, row.model_sha256 = model.name, model.version, model.sha256
            advance_review(session, row, ReviewEvent.PAIR, None, self._now())
        log.info("a structure set came back of job %d", job_id, extra=_where(review_id))

    def _describe(self, review_id: int, contents: ReviewContents) -> None:
        """Write down who reviewed it, as a pseudonym, and how and when."""
        reviewer = self._spool.pseudonym(f"reviewer {contents.reviewer}") if contents.reviewer else ""
        with self._database.transaction() as session:
            row = lock_one(session, ReviewRow, review_id)
            row.approval, row.reviewer = contents.approval, reviewer
            row.reviewed_at = datetime.fromisoformat(contents.reviewed_at) if contents.reviewed_at else None

    def _draft_path(self, made: _Made, destination: str = "") -> str | None:
        """Return a structure set of a job that is there: the one that a destination got, else any."""
        return next(self._draft_paths(made, destination), None)

    def _draft_paths(self, made: _Made, destination: str = "") -> Iterator[str]:
        """Yield the structure sets of a job that are there, first the one that a destination got."""
        paths = sorted(made.paths, key=lambda path: path != made.outputs.get(destination))
        missing = set(self._copies.missing(paths))
        for path in (path for path in paths if path not in missing):
            self._copies.bring([path])
            if (self._spool.root / path).is_file():
                yield path

    def _destination(self, calling_ae: str, destinations: Sequence[str]) -> str:
        """Return by which destination of a job a reviewer got the contours; empty where that is not sure."""
        said = next((r.destination for r in self._settings.reviewer if r.ae_title == calling_ae), "")
        if said:
            return said if said in destinations else ""
        called = [d.name for d in self._settings.destination if d.ae_title == calling_ae and d.name in destinations]
        return called[0] if len(called) == 1 else destinations[0] if len(destinations) == 1 else ""

    def _compare(self, review_id: int, path: str) -> None:
        """Compare a structure set with the one that was delivered, and write down what became of each organ."""
        with self._database.reading() as session:
            row = session.get_one(ReviewRow, review_id)
            made, destination = _made(session, session.get_one(JobRow, row.job_id)), row.destination
        assert made is not None  # it was contoured when the two were paired
        draft = self._draft_path(made, destination)
        if draft is None:
            raise ReviewUnusable(HoldReason.REVIEW_DRAFT_GONE, job=made.job_id)
        profiles = _profiles(made.contouring)
        frames = self._read(draft).frames
        request = {
            "reviewed": str(self._spool.root / path),
            "draft": str(self._spool.root / draft),
            "draft_names": {name: organ for organ, name in profiles.get(draft, Profile("")).names.items()},
            "names": self._names(made, profiles),
            "grid": made.contouring.grid or self._grid_of_images(made),
            "frame": frames[0] if frames else "",
            "structures": str(self._settings.structures.file.absolute()) if self._settings.structures.file else "",
        }
        organs = self._ask({"compare": request}, self._stopping)["organs"]
        fates = {OrganFate(organ["fate"]) for organ in organs if organ["organ"]}
        with self._database.transaction() as session:
            row = lock_one(session, ReviewRow, review_id)
            session.add_all(ReviewOrganRow(review_id=review_id, **organ) for organ in organs)
            row.unchanged = fates == {OrganFate.UNTOUCHED}
            advance_review(session, row, ReviewEvent.COMPARE, None, self._now())
        log.info("a structure set was compared with job %d", made.job_id, extra=_where(review_id))

    def _names(self, made: _Made, profiles: Mapping[str, Profile]) -> dict[str, str]:
        """Return what the destinations of a job are told to call the organs, in small letters -> organ.

        A name that stands for two organs is none.
        """
        of_settings = [d.structure_set_profile for d in self._settings.destination if d.name in made.destinations]
        pairs = {
            (name.casefold(), organ)
            for profile in (*profiles.values(), *of_settings)
            for organ, name in profile.names.items()
        }
        counts = Counter(name for name, _ in pairs)
        return {name: organ for name, organ in pairs if counts[name] == 1}

    def _grid_of_images(self, made: _Made) -> str:
        """Return the CT's grid by its images, of a job whose version did not keep it.

        Raises
        ------
        ReviewUnusable
            They are gone.
        """
        self._copies.bring(made.images)
        try:
            instances = [read_instance(self._spool.root / path) for path in made.images]
            return written_grid(gate(instances).grid)
        except SeriesUnusable as error:
            raise ReviewUnusable(HoldReason.REVIEW_WITHOUT_GRID, job=made.job_id) from error


def _where(review_id: int) -> dict[str, object]:
    return {"action": "review", "review": review_id}


def _series_of(session: Session, contents: ReviewContents, patient: str) -> list[int]:
    """Return the series that a structure set may be drawn on, the newest first."""
    of_images = select(InstanceRow.series_id).where(InstanceRow.sop_instance_uid.in_(contents.images[:MOST_NAMED]))
    which = or_(SeriesRow.series_uid.in_(contents.series[:MOST_NAMED]), SeriesRow.id.in_(of_images))
    if not contents.images and not contents.series:
        which = SeriesRow.patient == patient
    wanted = select(SeriesRow.id).where(which, SeriesRow.id.not_in(own_series())).order_by(SeriesRow.id.desc())
    return list(session.scalars(wanted.limit(MOST_SERIES)))


def _made_of(session: Session, series: Sequence[int]) -> list[_Made]:
    """Return the jobs of series that were contoured, the newest first."""
    wanted = select(JobRow).where(JobRow.series_id.in_(series)).order_by(JobRow.id.desc()).limit(MOST_DRAFTS)
    return [made for job in session.scalars(wanted) if (made := _made(session, job)) is not None]


def _made(session: Session, job: JobRow) -> _Made | None:
    contouring = last_contouring(session, job.id)
    if contouring is None:
        return None
    of_job = DeliveryRow.job_id == job.id, DeliveryRow.product == RTSTRUCT
    deliveries = session.scalars(select(DeliveryRow).where(*of_job)).all()
    first = (
        select(AttemptRow.destination, func.min(AttemptRow.at))
        .join(DeliveryRow, DeliveryRow.id == AttemptRow.delivery_id)
        .where(*of_job, AttemptRow.outcome == ACCEPTED)
        .group_by(AttemptRow.destination)
    )
    images = select(InstanceRow.path).where(InstanceRow.series_id == job.series_id).order_by(InstanceRow.id)
    return _Made(
        job.id,
        JobState(job.state) in ENDED,
        tuple(job.destinations),
        contouring,
        {d.destination: d.output for d in deliveries if d.output},
        dict(session.execute(first).all()),
        tuple(session.scalars(images)),
    )


def _delivered_at(made: _Made, destination: str) -> datetime | None:
    """Return when a destination, or where that is not sure the first of them, took the contours."""
    return made.taken.get(destination) if destination else min(made.taken.values(), default=None)


def _profiles(contouring: Contouring) -> dict[str, Profile]:
    """Return how each structure set of a job was written, by its path."""
    try:
        profiles = written_profiles(contouring.settings)
    except (KeyError, TypeError, ValueError):  # another version's
        return {}
    return dict(zip((output.path for output in contouring.outputs), profiles, strict=False))
