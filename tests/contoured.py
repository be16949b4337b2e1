"""A node's queue and spool with a worker that is called, not run: a job is contoured in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from contourd.contour.contouring import ContouringOptions, ContouringResult, contour_series
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.series import Instance, read_instance
from contourd.model.predictor import Predictor
from contourd.models import activation
from contourd.models.records import Evidence
from contourd.node.worker import ContourFunction, Worker
from contourd.operations.operations import Operations
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState, SeriesState
from contourd.store.tables import InstanceRow, JobRow, SeriesRow
from tests.queueing import START


@dataclass
class Bench:
    """What a node is made of, without its processes.

    Attributes
    ----------
    contour, elapsed_s
        What the worker contours with, and the seconds that have passed for it; a test may change both.
    """

    settings: Settings
    database: Database
    contour: ContourFunction = contour_series
    elapsed_s: float = 0.0

    def __post_init__(self) -> None:
        self.worker = Worker(self.settings, "bench", self._contour, lambda: self.elapsed_s)

    def _contour(self, instances: list[Instance], predictor: Predictor, order: ContouringOptions) -> ContouringResult:
        return self.contour(instances, predictor, order)

    @property
    def root(self) -> Path:
        return self.settings.spool.root

    @property
    def operations(self) -> Operations:
        return Operations(self.database, "marie", self.root)

    def add(self, folder: Path, destinations: str = "pacs", moment: datetime = START) -> int:
        """Put a folder's series into the spool and the queue, as if it had come; returns the job's number."""
        with self.database.transaction() as session:
            series = SeriesRow(
                series_uid=read_instance(min(folder.iterdir())).series_instance_uid,
                state=SeriesState.COMPLETE,
                created_at=moment,
                last_instance_at=moment,
            )
            session.add(series)
            session.flush()
            for path in sorted(folder.iterdir()):
                self.store(session, series.id, path, moment)
            job = JobRow(series_id=series.id, revision=1, model=self.settings.route[0].asked)
            job.destinations = destinations.split(",")
            job.state, job.created_at, job.updated_at = JobState.QUEUED, moment, moment
            session.add(job)
            session.flush()
            return job.id

    def store(self, session, series_id: int, path: Path, moment: datetime = START) -> None:
        uid = read_instance(path).sop_instance_uid
        relative = f"incoming/20260101/{uid}.dcm"
        target = self.root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        digest = stored_sha256(target)
        session.add(
            InstanceRow(series_id=series_id, sop_instance_uid=uid, path=relative, sha256=digest, received_at=moment)
        )

    def work(self) -> JobRow:
        """Contour the next job; returns what became of it."""
        job = Queue(self.database).fetch_job("bench", 60)
        assert job is not None
        self.worker.run_job(job)
        with self.database.reading() as session:
            return session.get_one(JobRow, job.id)


def open_bench(settings: Settings) -> Bench:
    """Make the spool and the database; ``close_bench`` closes both."""
    Spool(settings.spool.root)
    database = Database(settings.database_url)
    database.upgrade()
    return Bench(settings, database)


def close_bench(bench: Bench) -> None:
    bench.worker.close()
    bench.database.close()


def activate(bench, folder):
    return activation.activate(
        bench.database, bench.settings, str(folder), "marie", "trained here", Evidence(without="a test")
    ).activation.model
