"""An error that nobody foresaw, in the middle of a job, whose text quotes the patient."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest
from pydicom.valuerep import DSfloat

from contourd.jobs.contourings import Contouring
from contourd.jobs.database import Database
from contourd.jobs.queue import Job
from contourd.jobs.tables import JobRow, SeriesRow
from contourd.logs import LineFormatter
from contourd.model.library import FoundModel
from contourd.settings import Settings
from contourd.worker import Worker

NAME = "Zanzibaar^Quentinus"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Stumbling(Worker):
    """Meets a number that is a name, as pydicom tells it."""

    def _contour(self, job: Job, found: FoundModel) -> tuple[dict[str, str], str, Contouring]:  # noqa: ARG002
        DSfloat(NAME)
        raise AssertionError("pydicom took a name for a number")


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings.model_validate(
        {
            "spool": {"root": tmp_path},
            "worker": {"max_attempts": 1},
            "destination": [{"name": "pacs", "ae_title": "A", "host": "h", "port": 1}],
            "route": [{"model": "hn7", "destinations": ["pacs"]}],
        }
    )


def test_neither_the_queue_nor_the_log_quotes_the_patient(settings, caplog):
    database = Database(settings.database_url)
    database.upgrade()
    moments = {"created_at": NOW, "updated_at": NOW}
    with database.transaction() as session:
        session.add(SeriesRow(id=1, series_uid="1.2", state="COMPLETE", created_at=NOW, last_instance_at=NOW))
        session.flush()
        session.add(
            JobRow(id=1, series_id=1, revision=1, model="hn7", destinations=["pacs"], state="QUEUED", **moments)
        )
    worker = Stumbling(settings, "w")
    with caplog.at_level(logging.INFO):
        worker._work(worker._queue.claim("w", 60))
    worker._database.close()
    with database.reading() as session:
        job = session.get_one(JobRow, 1)
    database.close()
    assert (job.state, str(job.reason)) == ("FAILED", "ValueError; the log says where")
    lines = [LineFormatter().format(record) for record in caplog.records]
    (failed,) = [line for line in lines if line.startswith("the job failed")]
    assert "valuerep.py" in failed
    assert failed.endswith("\n  ValueError")
    assert NAME not in "".join(lines)
