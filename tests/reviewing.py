"""A site whose job was contoured and delivered, and structure sets that planning systems make of the draft."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select

from contourd.dicom.network.events import ReceivedReview
from contourd.dicom.reading.series import Series
from contourd.errors import ReviewUnusable
from contourd.imaging.written_grid import written_grid
from contourd.profiles import STRICT, Profile
from contourd.reasons.catalogue import HoldReason
from contourd.reviews.apart import answered
from contourd.reviews.asking import Plain
from contourd.reviews.reception import ReviewReception
from contourd.reviews.runner import Reviews
from contourd.settings import Destination, NodeSettings, Reviewer, Route, Settings, SpoolSettings
from contourd.spool.folder import REVIEWS, Spool
from contourd.store.contourings import Output, add_contouring
from contourd.store.database import Database
from contourd.store.review_tables import ReviewOrganRow, ReviewRow
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import AttemptRow, DeliveryRow, InstanceRow, JobRow, SeriesRow
from contourd.transfer.copies import HERE_ALONE
from tests.contourings import CONTOURING
from tests.phantom import structure_set
from tests.queueing import Clock

REVIEWER = "ECLIPSE"
DELIVERED_AFTER = timedelta(minutes=1)
Change = Callable[[Dataset], None]


def asked_here(request: Plain, stopping: threading.Event) -> dict[str, Any]:  # noqa: ARG001
    """Answer in this process, by way of JSON as from another one."""
    answer = json.loads(json.dumps(answered(json.loads(json.dumps(request)))))
    if "refused" in answer:
        code = HoldReason(answer["refused"]["code"])
        raise ReviewUnusable(code, **answer["refused"]["detail"])
    made: dict[str, Any] = answer
    return made


@dataclass
class Clinic:
    """A node that received a CT, contoured it and delivered it; and who sends structure sets back."""

    folder: Path
    database: Database
    series: Series
    clock: Clock

    def __post_init__(self) -> None:
        self.settings = Settings(
            node=NodeSettings(),
            spool=SpoolSettings(root=self.folder / "spool"),
            destination=(
                Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, names={"Parotid_L": "Ohr_li"}),
            ),
            route=(Route(model="hn7", destinations=("pacs",)),),
            reviewer=(Reviewer(ae_title=REVIEWER, tps="Eclipse 18"),),
        )
        self.spool = Spool(self.settings.spool.root)
        self.reception = ReviewReception(self.database, self.spool, self.settings.reviewer, clock=self.clock)
        self.draft = structure_set(self.series)
        self.runner = Reviews(
            self.settings, self.database, self.spool, HERE_ALONE, threading.Event(), self.clock, asked_here
        )

    def receive_ct(self) -> int:
        """Have the CT in the queue, complete; returns its number."""
        with self.database.transaction() as session:
            row = SeriesRow(series_uid=self.series.uid, state=SeriesState.COMPLETE)
            row.created_at = row.last_instance_at = self.clock()
            row.patient = self.spool.pseudonym(str(self.series.header.PatientID))
            session.add(row)
            session.flush()
            for k, instance in enumerate(self.series.instances):
                image = InstanceRow(series_id=row.id, sop_instance_uid=instance.sop_instance_uid, path=f"in/{k}")
                image.sha256, image.received_at = "", self.clock()
                session.add(image)
            return row.id

    def contour(self, series_id: int, model: str = "hn7", profile: Profile = STRICT, grid: bool = True) -> int:
        """Contour the CT and deliver it; returns the job's number."""
        self.clock.advance(1)
        with self.database.transaction() as session:
            job = JobRow(series_id=series_id, revision=1, model=model, destinations=["pacs"])
            job.state, job.created_at, job.updated_at = JobState.DELIVERED, self.clock(), self.clock()
            session.add(job)
            session.flush()
            output = self.spool.store_output(job.id, 1, content_of(self.draft))
            order = json.dumps({"profiles": [profile.as_plain()]})
            made = replace(CONTOURING, outputs=(Output(output, "0" * 64),), settings=order)
            made = replace(made, grid=written_grid(self.series.grid) if grid else "")
            add_contouring(session, job.id, "", made, self.clock())
            delivery = DeliveryRow(job_id=job.id, destination="pacs", output=output, state=DeliveryState.DELIVERED)
            delivery.not_before = delivery.created_at = delivery.updated_at = self.clock()
            session.add(delivery)
            session.flush()
            taken = AttemptRow(delivery_id=delivery.id, destination="pacs", at=self.clock() + DELIVERED_AFTER)
            taken.outcome = "accepted"
            session.add(taken)
            return job.id

    def come_back(self, dataset: Dataset | bytes, uid: str = "", calling_ae: str = REVIEWER) -> str:
        """Receive a structure set as the SCP does; returns its path."""
        content = dataset if isinstance(dataset, bytes) else content_of(dataset)
        path = self.spool.store_instance([content], REVIEWS)
        uid = uid or str(getattr(dataset, "SOPInstanceUID", "1.2.3"))
        patient = self.spool.pseudonym(str(getattr(dataset, "PatientID", "")))
        digest = f"{hash(content) & 0xFFFFFFFF:064x}"
        self.reception.review_stored(ReceivedReview(1, calling_ae, uid, path, digest, patient))
        return path

    def compared(self, dataset: Dataset | bytes) -> tuple[ReviewRow, dict[str, ReviewOrganRow]]:
        """Receive a structure set and do what is to be done; returns its row, and its organs by name or ROI."""
        self.come_back(dataset)
        self.runner.run()
        return self.reviews()[-1], self.organs()

    def reviews(self) -> list[ReviewRow]:
        with self.database.reading() as session:
            return list(session.scalars(select(ReviewRow).order_by(ReviewRow.id)))

    def organs(self) -> dict[str, ReviewOrganRow]:
        """Return those of the last review."""
        last = self.reviews()[-1].id
        with self.database.reading() as session:
            rows = session.scalars(select(ReviewOrganRow).where(ReviewOrganRow.review_id == last))
            return {row.organ or row.roi: row for row in rows}


def content_of(dataset: Dataset) -> bytes:
    """Return the bytes of a dataset's file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def edited(draft: Dataset, *changes: Change, uid: str = "") -> Dataset:
    """Copy a draft as a planning system would export it, with a UID of its own, and change the copy."""
    made = pydicom.dcmread(BytesIO(content_of(draft)))
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    made.Manufacturer = "Another"
    for change in changes:
        change(made)
    return made


def approved(dataset: Dataset, at: datetime, by: str = "Curie^Marie") -> None:
    """Approve a structure set (Approval module)."""
    dataset.ApprovalStatus = "APPROVED"
    dataset.ReviewDate, dataset.ReviewTime = f"{at:%Y%m%d}", f"{at:%H%M%S}"
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.ReviewerName = by


def number_of(dataset: Dataset, name: str) -> int:
    return int(next(item.ROINumber for item in dataset.StructureSetROISequence if item.ROIName == name))


def contours_of(dataset: Dataset, name: str) -> Dataset:
    number = number_of(dataset, name)
    return next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number)


def moved(name: str, by_mm: Sequence[float]) -> Change:
    """Return a change that moves an ROI."""

    def change(dataset: Dataset) -> None:
        for contour in contours_of(dataset, name).ContourSequence:
            points = points_of(contour) + np.asarray(by_mm)
            contour.ContourData = [f"{value:.3f}" for value in points.ravel()]

    return change


def points_of(contour: Dataset) -> NDArray[np.float64]:
    return np.asarray(contour.ContourData, dtype=np.float64).reshape(-1, 3)


def renamed(name: str, new: str) -> Change:
    """Return a change that calls an ROI something else."""

    def change(dataset: Dataset) -> None:
        next(item for item in dataset.StructureSetROISequence if item.ROIName == name).ROIName = new

    return change


def emptied(name: str) -> Change:
    """Return a change that takes an ROI's contours away."""

    def change(dataset: Dataset) -> None:
        del contours_of(dataset, name).ContourSequence

    return change


def copied(name: str, new: str) -> Change:
    """Return a change that draws an ROI a second time under another name."""

    def change(dataset: Dataset) -> None:
        number = max(int(item.ROINumber) for item in dataset.StructureSetROISequence) + 1
        one = next(item for item in dataset.StructureSetROISequence if item.ROIName == name)
        roi, drawn = deepcopy(one), deepcopy(contours_of(dataset, name))
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName = new
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)

    return change
