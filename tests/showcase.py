"""A node's spool and queue as they may look one morning: the reference patient contoured, others held, or sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from sqlalchemy import delete

from contourd.acceptance.reference_patient import IDENTITY, load_reference, reference_masks
from contourd.dicom.ct_write import write_ct_series
from contourd.dicom.reading.series import Instance, along_z, gate, read_instance
from contourd.dicom.rtstruct.writer import Provenance, structure_set_dataset
from contourd.imaging.contours import ROI, StructureSet, trace
from contourd.imaging.grid import Box, Grid
from contourd.imaging.volume import Volume
from contourd.model.remarks import NO_REMARKS, Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.structures import catalogue
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.facets import file_job, file_remarks
from contourd.store.route_choice import MatchedCondition, RouteChoice
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import AttemptRow, DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow

STEP_MM = 2.5  # of the shipped file


def flagged_volume(organ: str, volume_cc: float, expected_cc: tuple[float, float]) -> Remarks:
    """Return the remark that an organ has another size than is usual."""
    found = Finding(organ, RemarkCheck.VOLUME, Measure.VOLUME_CC, volume_cc, expected_cc)
    return Remarks((Remark(found, RemarkVerdict.FLAG),))


REMARKS = flagged_volume("Parotid_R", 22.6, (25.3, 129.2))
Contourer = Callable[[list[Instance]], tuple[Dataset, Remarks]]


def drawn(instances: list[Instance]) -> tuple[Dataset, Remarks]:
    """Make the reference patient's structure set of its mean contours: no network is run."""
    series = gate(instances)
    rois = []
    for name, mask in reference_masks(series.grid).items():
        box = _around(mask)
        rois.append(ROI(name, trace(mask[box], box, series.grid), series.grid.volume_mm3(mask) / 1000))
    provenance = Provenance.of_one("hn7", "1", "0" * 64, "0" * 64, 1)
    return structure_set_dataset(StructureSet(tuple(rois)), series, provenance, catalogue(), remarks=REMARKS), REMARKS


def _around(mask: NDArray[np.bool_]) -> Box:
    z, y, x = (slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
    return z, y, x


def contoured(instances: list[Instance]) -> tuple[Dataset, Remarks]:
    """Contour it with the shipped model."""
    from contourd.contour.contouring import contour_series
    from contourd.model.bundle import load_bundle
    from contourd.model.kinds import predictor_for

    made = contour_series(instances, predictor_for(load_bundle("hn7"), "cpu"))
    return made.dataset, made.remarks


@dataclass(frozen=True)
class Files:
    """A series and its structure set, as they are received and made; where its images lie, z in mm."""

    images: tuple[bytes, ...]
    places_mm: tuple[float, ...]
    structure_set: bytes
    series_uid: str
    remarks: Remarks


def files_of(ct: Path, contourer: Contourer) -> Files:
    """Contour a series on disk."""
    instances = [read_instance(path) for path in sorted(ct.iterdir())]
    dataset, remarks = contourer(instances)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    images = tuple(instance.path.read_bytes() for instance in instances)
    places_mm = tuple(along_z(instance) for instance in instances)
    return Files(images, places_mm, buffer.getvalue(), instances[0].series_instance_uid, remarks)


@cache
def coarse_reference() -> Files:
    """Take the reference patient as it is shipped, every other slice: 2.5 x 2.5 mm, 5 mm apart."""
    volume = load_reference().volume
    hu = volume.hu[::2]
    grid = Grid.regular(hu.shape, (2 * STEP_MM, STEP_MM, STEP_MM), volume.grid.slice_origins_mm[0])
    with TemporaryDirectory() as folder:
        return files_of(write_ct_series(Volume(grid, hu), Path(folder), IDENTITY), drawn)


def fill(database: Database, spool: Spool, files: Files | None = None) -> None:
    """Store the reference patient as job 1, waiting for confirmation, and around it what a node may hold.

    Series 2 is the same scan with two slices missing.
    """
    files = files or coarse_reference()
    paths = [spool.store_instance([image]) for image in files.images]
    spool.store_output(1, 1, files.structure_set)
    fill_queue(database, spool, paths, files.series_uid, files.remarks)
    with database.transaction() as session:
        session.execute(delete(InstanceRow).where(InstanceRow.series_id == 2))
        session.add_all(
            InstanceRow(
                series_id=2, sop_instance_uid=f"2.25.2.{i}", path=path, sha256="", received_at=datetime.now(UTC)
            )
            for i, path in enumerate(paths)
            if i not in MISSING
        )
        missing = [files.places_mm[i] for i in MISSING]
        session.get_one(SeriesRow, 2).reason = Reason.of(HoldReason.SLICES_MISSING, z_mm=missing)


def fill_queue(
    database: Database, spool: Spool, paths: Sequence[str] = (), uid: str = "2.25.1", remarks: Remarks = NO_REMARKS
) -> None:
    """Make the rows alone; ``paths`` are the images of series 1."""
    now = datetime.now(UTC)
    with database.transaction() as session:
        for n, (state, reason, minutes) in enumerate(SERIES, 1):
            images = paths if n == 1 else [f"incoming/{n}-{i}.dcm" for i in range(60 + 7 * n)]
            begun = now - timedelta(minutes=minutes)
            patient = spool.pseudonym(f"REFERENCE-{n}")
            session.add(_series(n, uid if n == 1 else f"2.25.{n}", state, reason, patient, begun))
            session.flush()
            session.add_all(
                InstanceRow(series_id=n, sop_instance_uid=f"2.25.{n}.{i}", path=path, sha256="", received_at=begun)
                for i, path in enumerate(images)
            )
        for n, (series, state, reason, told) in enumerate(JOBS, 1):
            begun = now - timedelta(minutes=SERIES[series - 1][2] - 2)
            job = _job(n, series, state, reason, remarks if n == 1 else told, begun)
            session.add(job)
            session.flush()
            file_job(session, job, session.get_one(SeriesRow, series).calling_ae)
            file_remarks(session, job, job.remarks)
            session.add_all(_events(n, state, reason, begun))
        tries: list[AttemptRow] = []
        for n, (job, destination, state, attempts, reason) in enumerate(DELIVERIES, 1):
            begun = now - timedelta(minutes=SERIES[JOBS[job - 1][0] - 1][2] - 3)
            session.add(
                DeliveryRow(
                    id=n, job_id=job, destination=destination, output=f"outgoing/{job}-c1.dcm", state=state,
                    attempts=attempts, reason=reason, not_before=now + timedelta(minutes=4), created_at=begun,
                    updated_at=begun,
                )
            )  # fmt: skip
            tries += _attempts(n, destination, state, attempts, reason, begun)
        session.flush()
        for one in sorted(tries, key=lambda attempt: attempt.at):
            session.add(one)
            session.flush()


def _series(
    number: int, uid: str, state: SeriesState, reason: Reason | None, patient: str, begun: datetime
) -> SeriesRow:
    return SeriesRow(
        id=number, series_uid=uid, state=state, reason=reason, calling_ae="PLANNINGCT" if number % 3 else "CT1",
        patient=patient, created_at=begun, last_instance_at=begun + timedelta(minutes=1),
    )  # fmt: skip


def _job(number: int, series: int, state: JobState, reason: Reason | None, remarks: Remarks, begun: datetime) -> JobRow:
    return JobRow(
        id=number, series_id=series, revision=1, model="hn7", destinations=["pacs", "tps"], state=state, reason=reason,
        remarks=remarks, confirm=state == JobState.CONFIRMING, created_at=begun,
        route_choice="" if state == JobState.FAILED else CHOICE.to_json(),
        updated_at=begun + timedelta(minutes=1),
    )  # fmt: skip


CHOICE = RouteChoice(1, (MatchedCondition("series_description", "head|neck|HN", "RT Head Neck"),), "5e771265" * 8)


def _events(job: int, state: JobState, reason: Reason | None, begun: datetime) -> list[EventRow]:
    steps = [
        ("queued", "QUEUED", 0, "hn7"),
        ("claim", "CONTOURING", 1, "worker-1"),
        ("contoured", "DELIVERING", 42, ""),
    ]
    ends = {JobState.CONFIRMING: "await confirmation", JobState.DELIVERED: "all delivered", JobState.FAILED: "fail"}
    steps = steps[:2] if state == JobState.CONTOURING else steps
    steps += [(ends[state], str(state), 47, reason)] if state in ends else []
    return [
        EventRow(
            at=begun + timedelta(seconds=s),
            subject="job",
            subject_id=job,
            event=event,
            state=then,
            **({"detail": why} if isinstance(why, str) else {"reason": why}),
        )
        for event, then, s, why in steps
    ]


def _attempts(
    delivery: int, destination: str, state: DeliveryState, attempts: int, reason: Reason | None, begun: datetime
) -> list[AttemptRow]:
    ends = {DeliveryState.DELIVERED: ("accepted", 0), DeliveryState.REFUSED: ("refused", None)}
    failed = ("unreachable" if reason is DOWN else "retry", None)
    outcomes = [failed] * attempts
    outcomes[-1:] = [ends.get(state, failed)] if attempts else []
    return [
        AttemptRow(
            delivery_id=delivery, destination=destination, at=begun + timedelta(minutes=i), outcome=outcome,
            status=status, reason=str(reason or ""),
        )
        for i, (outcome, status) in enumerate(outcomes)
    ]  # fmt: skip


DOWN = Reason.of(
    HoldReason.DESTINATION_UNREACHABLE, said="tps (TPS at 192.0.2.7:104) cannot be reached: Connection refused"
)
REFUSAL = Reason.of(
    HoldReason.DESTINATION_REFUSED,
    said="tps (TPS at 192.0.2.7:104) does not take RT Structure Set Storage; allow it there",
)
SERIES = (
    (SeriesState.COMPLETE, None, 21),
    (SeriesState.HELD, Reason.of(HoldReason.SLICES_MISSING, z_mm=[-42.5, -40.0]), 64),
    (SeriesState.COMPLETE, None, 9),
    (SeriesState.COMPLETE, None, 45),
    (SeriesState.COMPLETE, None, 300),
    (SeriesState.RECEIVING, None, 1),
    (SeriesState.COMPLETE, None, 95),
)
MISSING = (28, 29)
JOBS = (
    (1, JobState.CONFIRMING, Reason(HoldReason.WAITS_FOR_CONFIRMATION), NO_REMARKS),
    (3, JobState.CONTOURING, None, NO_REMARKS),
    (4, JobState.DELIVERING, None, NO_REMARKS),
    (5, JobState.DELIVERED, None, flagged_volume("Larynx", 71.2, (8.9, 60.1))),
    (7, JobState.FAILED, Reason.of(HoldReason.DELIVERY_REFUSED, destination="tps", why=REFUSAL), NO_REMARKS),
)
DELIVERIES = (
    (1, "pacs", DeliveryState.PENDING, 0, None),
    (1, "tps", DeliveryState.PENDING, 0, None),
    (3, "pacs", DeliveryState.DELIVERED, 1, None),
    (3, "tps", DeliveryState.PENDING, 3, DOWN),
    (4, "pacs", DeliveryState.DELIVERED, 1, None),
    (4, "tps", DeliveryState.DELIVERED, 1, None),
    (5, "tps", DeliveryState.REFUSED, 1, REFUSAL),
    (5, "pacs", DeliveryState.DELIVERED, 1, None),
)
