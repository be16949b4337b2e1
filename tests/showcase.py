"""A node's spool and queue as they may look one morning: the reference patient contoured, others held, or sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.dicom.ct_write import write_ct_series
from contourd.dicom.rtstruct_write import Provenance, Remarks, structure_set_dataset
from contourd.dicom.series import Instance, gate, read_instance
from contourd.dicom.spool import Spool
from contourd.imaging.contours import ROI, StructureSet, trace
from contourd.imaging.grid import Box
from contourd.jobs.database import Database
from contourd.jobs.job import DeliveryState, JobState, SeriesState
from contourd.jobs.tables import AttemptRow, DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow
from contourd.model.structures import catalogue
from contourd.reference import IDENTITY, load_reference, reference_masks

REMARKS = Remarks({"Parotid_R": "volume 3.1 cc, expected 5.3 to 129.2 cc"}, {})
Contourer = Callable[[list[Instance]], tuple[Dataset, str]]


def drawn(instances: list[Instance]) -> tuple[Dataset, str]:
    """Make the reference patient's structure set of its mean contours: no network is run."""
    series = gate(instances)
    rois = []
    for name, mask in reference_masks(series.grid).items():
        box = _around(mask)
        rois.append(ROI(name, trace(mask[box], box, series.grid), series.grid.volume_mm3(mask) / 1000))
    provenance = Provenance("hn7", "1", "0" * 64, "0" * 64, 1)
    return structure_set_dataset(
        StructureSet(tuple(rois)), series, provenance, catalogue(), remarks=REMARKS
    ), REMARKS.told()


def _around(mask: NDArray[np.bool_]) -> Box:
    z, y, x = (slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
    return z, y, x


def contoured(instances: list[Instance]) -> tuple[Dataset, str]:
    """Contour it with the shipped model."""
    from contourd.contouring import contour_series
    from contourd.model.bundle import load_bundle
    from contourd.model.predictor import Predictor

    made = contour_series(instances, Predictor(load_bundle("hn7"), "cpu"))
    return made.dataset, made.remarks.told()


def fill(database: Database, spool: Spool, folder: Path, contourer: Contourer = drawn, ct: Path | None = None) -> None:
    """Store the reference patient as job 1, waiting for confirmation, and around it what a node may hold."""
    ct = ct or write_ct_series(load_reference().volume, folder / "ct", IDENTITY)
    paths = [spool.store_instance([path.read_bytes()]) for path in sorted(ct.iterdir())]
    instances = [read_instance(spool.root / path) for path in paths]
    dataset, remarks = contourer(instances)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    output = spool.store_output(1, buffer.getvalue())
    now = datetime.now(UTC)
    with database.transaction() as session:
        for n, (state, reason, minutes) in enumerate(SERIES, 1):
            images = paths if n == 1 else [f"incoming/{n}-{i}.dcm" for i in range(60 + 7 * n)]
            uid = instances[0].series_instance_uid if n == 1 else f"2.25.{n}"
            begun = now - timedelta(minutes=minutes)
            session.add(_series(n, uid, state, reason, spool.pseudonym(f"REFERENCE-{n}"), begun))
            session.flush()
            session.add_all(
                InstanceRow(series_id=n, sop_instance_uid=f"2.25.{n}.{i}", path=path, sha256="", received_at=begun)
                for i, path in enumerate(images)
            )
        for n, (series, state, reason, told) in enumerate(JOBS, 1):
            begun = now - timedelta(minutes=SERIES[series - 1][2] - 2)
            session.add(_job(n, series, state, reason, remarks if n == 1 else told, begun))
            session.flush()
            session.add_all(_events(n, state, reason, begun))
        for n, (job, destination, state, attempts, reason) in enumerate(DELIVERIES, 1):
            begun = now - timedelta(minutes=SERIES[JOBS[job - 1][0] - 1][2] - 3)
            where = output if job == 1 else f"outgoing/{job}.dcm"
            session.add(
                DeliveryRow(
                    id=n, job_id=job, destination=destination, output=where, state=state, attempts=attempts,
                    reason=reason, not_before=now + timedelta(minutes=4), created_at=begun, updated_at=begun,
                )
            )  # fmt: skip
            session.flush()
            session.add_all(_attempts(n, destination, state, attempts, reason, begun))


def _series(number: int, uid: str, state: SeriesState, reason: str, patient: str, begun: datetime) -> SeriesRow:
    return SeriesRow(
        id=number, series_uid=uid, state=state, reason=reason, calling_ae="PLANNINGCT" if number % 3 else "CT1",
        patient=patient, created_at=begun, last_instance_at=begun + timedelta(minutes=1),
    )  # fmt: skip


def _job(number: int, series: int, state: JobState, reason: str, remarks: str, begun: datetime) -> JobRow:
    return JobRow(
        id=number, series_id=series, revision=1, model="hn7", destinations="pacs,tps", state=state, reason=reason,
        remarks=remarks, confirm=reason == CONFIRM, created_at=begun, updated_at=begun + timedelta(minutes=1),
    )  # fmt: skip


def _events(job: int, state: JobState, reason: str, begun: datetime) -> list[EventRow]:
    steps = [
        ("queued", "QUEUED", 0, "hn7"),
        ("claim", "CONTOURING", 1, "worker-1"),
        ("contoured", "DELIVERING", 42, ""),
    ]
    ends = {JobState.HELD: "hold", JobState.DELIVERED: "all delivered", JobState.FAILED: "fail"}
    steps = steps[:2] if state == JobState.CONTOURING else steps
    steps += [(ends[state], str(state), 47, reason)] if state in ends else []
    return [
        EventRow(at=begun + timedelta(seconds=s), subject="job", subject_id=job, event=event, state=then, detail=detail)
        for event, then, s, detail in steps
    ]


def _attempts(
    delivery: int, destination: str, state: DeliveryState, attempts: int, reason: str, begun: datetime
) -> list[AttemptRow]:
    ends = {DeliveryState.DELIVERED: ("accepted", 0), DeliveryState.REFUSED: ("refused", None)}
    outcomes = [("retry", None)] * attempts
    outcomes[-1:] = [ends.get(state, ("retry", None))] if attempts else []
    return [
        AttemptRow(
            delivery_id=delivery, destination=destination, at=begun + timedelta(minutes=i), outcome=outcome,
            status=status, reason=reason,
        )
        for i, (outcome, status) in enumerate(outcomes)
    ]  # fmt: skip


DOWN = "tps (TPS at 192.0.2.7:104) cannot be reached: Connection refused"
REFUSAL = "tps (TPS at 192.0.2.7:104) does not take RT Structure Set Storage; allow it there"
SERIES = (
    (SeriesState.COMPLETE, "", 21),
    (SeriesState.HELD, "missing slices at z = -42.50, -40.00 mm; send the whole series again", 64),
    (SeriesState.COMPLETE, "", 9),
    (SeriesState.COMPLETE, "", 240),
    (SeriesState.COMPLETE, "", 300),
    (SeriesState.RECEIVING, "", 1),
    (SeriesState.COMPLETE, "", 95),
)
CONFIRM = "waits for confirmation: a person is to look at the pictures before it is sent"
JOBS = (
    (1, JobState.HELD, CONFIRM, ""),
    (3, JobState.CONTOURING, "", ""),
    (4, JobState.DELIVERING, "", ""),
    (5, JobState.DELIVERED, "", "check: Larynx (volume 71.2 cc, expected 8.9 to 60.1 cc)"),
    (7, JobState.FAILED, f"tps: {REFUSAL}", ""),
)
DELIVERIES = (
    (1, "pacs", DeliveryState.PENDING, 0, ""),
    (1, "tps", DeliveryState.PENDING, 0, ""),
    (3, "pacs", DeliveryState.DELIVERED, 1, ""),
    (3, "tps", DeliveryState.PENDING, 3, DOWN),
    (4, "pacs", DeliveryState.DELIVERED, 1, ""),
    (4, "tps", DeliveryState.DELIVERED, 1, ""),
    (5, "tps", DeliveryState.REFUSED, 1, REFUSAL),
)
