"""What made the structure sets of a job: enough to make the same bytes again, or to say what has changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.model.model_identity import ModelIdentity
from contourd.model.model_names import PartialRule, partial_rule
from contourd.model.model_use import ModelUse, uses_from_json, uses_to_json
from contourd.model.runtime_description import RuntimeDescription
from contourd.profiles import Profile
from contourd.store.database import Database
from contourd.store.tables import ContouringRow, InstanceRow, JobRow, SeriesRow


@dataclass(frozen=True, slots=True)
class Output:
    """One structure set: where it was written, relative to the spool, and the hash of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FurtherOutput:
    """A product that goes to a destination; ``path`` is its file, relative to the spool."""

    destination: str
    product: str
    path: str


@dataclass(frozen=True, slots=True)
class Contouring:
    """How a job was contoured.

    Attributes
    ----------
    contourd
        Its version.
    runtime
        What ran the network, and where.
    libraries
        Name -> version of what computes and writes.
    settings
        JSON: those that decide the bytes.
    images, images_sha256
        How many, and one hash over those of all.
    grid
        JSON: where the CT's voxels lie; empty where an earlier version contoured it.
    several
        Where the job had several models, each with what it did; ``model`` and ``runtime`` are of the first that drew.
    """

    model: ModelIdentity
    contourd: str
    runtime: RuntimeDescription
    libraries: Mapping[str, str]
    settings: str
    images: int
    images_sha256: str
    outputs: tuple[Output, ...]
    grid: str = ""
    several: tuple[ModelUse, ...] = ()

    @property
    def models(self) -> tuple[ModelUse, ...]:
        """Each model with what it did, also where there is one alone."""
        return self.several or (ModelUse(self.model.name, self.model, self.runtime),)

    def model_of(self, organ: str) -> ModelIdentity:
        """Return the model whose an organ is to draw; where none of several has it, the first that drew."""
        owners = (use.identity for use in self.several if organ in use.organs)
        return next((one for one in owners if one is not None), self.model)

    @property
    def models_text(self) -> str:
        """Which models, in words."""
        return ", ".join(use.text() for use in self.models)


@dataclass(frozen=True, slots=True)
class ContouredJob:
    """A job that was contoured, and what is there of it now.

    Attributes
    ----------
    hashes
        Path of each image, relative to the spool -> the hash of its dataset when it came.
    contouring
        The last one; None where the job was never contoured by a version that kept it.
    images_purged, outputs_purged
        When retention removed them.
    partial
        What becomes of the job where one of several models fails.
    """

    job_id: int
    model: str
    state: str
    revision: int
    series_revision: int
    destinations: tuple[str, ...]
    override: str
    hashes: Mapping[str, str]
    contouring: Contouring | None
    images_purged: datetime | None
    outputs_purged: datetime | None
    partial: PartialRule = "hold"


def images_sha256(hashes: Iterable[str]) -> str:
    """Return one hash over those of all images, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def add_contouring(session: Session, job_id: int, process_id: str, contouring: Contouring, at: datetime) -> None:
    """Append one inside the caller's transaction; ``process_id`` is the worker's."""
    session.add(
        ContouringRow(
            job_id=job_id,
            process=process_id,
            at=at,
            model_name=contouring.model.name,
            model_version=contouring.model.version,
            model_sha256=contouring.model.sha256,
            contourd=contouring.contourd,
            runtime=contouring.runtime.to_json(),
            versions=json.dumps(dict(contouring.libraries)),
            settings=contouring.settings,
            models=uses_to_json(contouring.several) if contouring.several else "",
            images=contouring.images,
            images_sha256=contouring.images_sha256,
            outputs=json.dumps([[output.path, output.sha256] for output in contouring.outputs]),
            grid=contouring.grid,
        )
    )


def models_of_jobs(session: Session, job_ids: Sequence[int]) -> dict[int, tuple[ModelUse, ...]]:
    """Return job -> the models that it was contoured with the last time, each with what it did."""
    last = select(func.max(ContouringRow.id)).where(ContouringRow.job_id.in_(job_ids)).group_by(ContouringRow.job_id)
    rows = session.scalars(select(ContouringRow).where(ContouringRow.id.in_(last)))
    return {row.job_id: _contouring(row).models for row in rows}


def kept_models(name: str, version: str, sha256: str, runtime: str, several: str) -> tuple[ModelUse, ...]:
    """Return each model with what it did, by the columns of ``ContouringRow``."""
    if several:
        return uses_from_json(several)
    return (ModelUse(name, ModelIdentity(name, version, sha256), RuntimeDescription.from_json(runtime)),)


def last_outputs(session: Session, job_id: int) -> tuple[Output, ...]:
    """Return what was written the last time that a job was contoured, structure sets first."""
    last = select(ContouringRow.outputs).where(ContouringRow.job_id == job_id).order_by(ContouringRow.id.desc())
    return tuple(Output(path, sha256) for path, sha256 in json.loads(session.scalar(last.limit(1)) or "[]"))


def contoured_of_others(session: Session, job: JobRow) -> bool:
    """Return whether a job was contoured on as many images as its series has now, of which some have other content."""
    last = select(ContouringRow).where(ContouringRow.job_id == job.id).order_by(ContouringRow.id.desc()).limit(1)
    made = session.scalars(last).first()
    if made is None:
        return False
    hashes = session.scalars(select(InstanceRow.sha256).where(InstanceRow.series_id == job.series_id)).all()
    return len(hashes) == made.images and images_sha256(hashes) != made.images_sha256


def written_profiles(settings: str) -> tuple[Profile, ...]:
    """Return how a job's structure sets were written, in their order, by the settings that were kept with it.

    Raises
    ------
    KeyError, TypeError, ValueError
        Another version wrote them, and this one does not know them.
    """
    plain = json.loads(settings)["profiles"]
    return tuple(Profile(**{key: value for key, value in one.items() if key != "hash"}) for one in plain)


def last_contouring(session: Session, job_id: int) -> Contouring | None:
    """Return what made a job's structure sets the last time; None where nothing did."""
    last = select(ContouringRow).where(ContouringRow.job_id == job_id).order_by(ContouringRow.id.desc()).limit(1)
    row = session.scalars(last).first()
    return _contouring(row) if row is not None else None


def read_contoured(database: Database, job_id: int) -> ContouredJob | None:
    """Read one job, None where there is none of that number."""
    with database.reading() as session:
        job = session.get(JobRow, job_id)
        if job is None:
            return None
        series = session.get_one(SeriesRow, job.series_id)
        images = select(InstanceRow.path, InstanceRow.sha256).where(InstanceRow.series_id == series.id)
        return ContouredJob(
            job.id,
            job.model,
            job.state,
            job.revision,
            series.revision,
            tuple(job.destinations),
            job.override,
            dict(session.execute(images.order_by(InstanceRow.id)).all()),
            last_contouring(session, job_id),
            series.purged_at,
            job.purged_at,
            partial_rule(job.partial),
        )


def _contouring(row: ContouringRow) -> Contouring:
    return Contouring(
        ModelIdentity(row.model_name, row.model_version, row.model_sha256),
        row.contourd,
        RuntimeDescription.from_json(row.runtime),
        json.loads(row.versions),
        row.settings,
        row.images,
        row.images_sha256,
        tuple(Output(path, sha256) for path, sha256 in json.loads(row.outputs)),
        row.grid,
        uses_from_json(row.models) if row.models else (),
    )
