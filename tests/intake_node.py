"""An intake with its spool, its clock and a sender, and small series to send to it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.intake.intake import Intake
from contourd.operations.operations import Operations
from contourd.settings import Route, SeriesSettings
from contourd.store.queue import Queue
from contourd.store.tables import InstanceRow, JobRow, SeriesRow
from tests.databases import open_queue

SETTINGS = SeriesSettings(quiet_s=10, gapped_s=60)
ROUTE = Route(model="hn7", destinations=("pacs",))


class Node:
    """An intake with its spool, its clock and a sender."""

    def __init__(self, folder: Path, routes=(ROUTE,)) -> None:
        self.now, self.set_by_s = datetime(2026, 1, 1, tzinfo=UTC), 0.0
        self.root = folder / "spool"
        self.root.mkdir()
        self.database = open_queue(folder)
        self.database.upgrade()
        self.intake = self.restarted(routes)
        self.queue = Queue(self.database, lambda: self.now)
        self.associations = 0
        self.sent = 0

    def restarted(self, routes=(ROUTE,), settings=SETTINGS, **more) -> Intake:
        clock, monotonic = (lambda: self.now), (lambda: self.now.timestamp() - self.set_by_s)
        self.intake = Intake(self.database, self.root, settings, routes, clock, monotonic, **more)
        return self.intake

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.intake.close_quiet()

    def set_clock(self, seconds: float) -> None:
        """Set the time of day; the monotonic clock does not know."""
        self.now += timedelta(seconds=seconds)
        self.set_by_s += seconds

    def open(self, calling_ae: str = "CT1") -> int:
        self.associations += 1
        self.intake.association_opened(self.associations, calling_ae, "127.0.0.1")
        return self.associations

    def store(self, association: int, path: Path, calling_ae: str = "CT1") -> str:
        self.sent += 1
        relative = f"{self.sent}.dcm"
        shutil.copy(path, self.root / relative)
        ds = pydicom.dcmread(path)
        digest = stored_sha256(path)
        received = ReceivedInstance(
            association, calling_ae, str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID), relative, digest, "pseudonym"
        )
        self.intake.instance_stored(received)
        return relative

    def send(self, paths, calling_ae: str = "CT1", aborted: bool = False) -> None:
        association = self.open(calling_ae)
        for path in paths:
            self.store(association, path, calling_ae)
        self.intake.association_closed(association, aborted)

    def release(self, series: int) -> None:
        Operations(self.database, "marie", self.root, lambda: self.now).release_series(series, SETTINGS.gapped_s)

    def series(self) -> SeriesRow:
        with self.database.reading() as session:
            return session.scalars(select(SeriesRow)).one()

    def jobs(self) -> list[JobRow]:
        with self.database.reading() as session:
            read = select(JobRow).options(selectinload(JobRow.destination_rows))
            return list(session.scalars(read.order_by(JobRow.id)))

    def instances(self) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(InstanceRow)).all())


def ct(folder: Path, patient: str = "p", slices: int = 20) -> list[Path]:
    grid = Grid.regular((slices, 8, 8), (3.0, 1.0, 1.0), (0.0, 0.0, -30.0))
    hu = np.random.default_rng(0).integers(-1000, 1000, grid.shape).astype(np.int16)
    write_ct_series(Volume(grid, hu), folder, SeriesIdentity(patient, "A^B"))
    return sorted(folder.iterdir())


def edit(path: Path, **changes) -> Path:
    ds = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    if "SOPClassUID" in changes:
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.save_as(path)
    return path
