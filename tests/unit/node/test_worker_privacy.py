"""An error that nobody foresaw, in the middle of a job, whose text quotes the patient."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import NoReturn

import pytest
from pydicom.valuerep import DSfloat

from contourd.contour.contouring import ContouringOptions
from contourd.dicom.reading.series import Instance
from contourd.model.predictor import Predictor
from contourd.node.worker import Worker
from contourd.settings import Settings
from contourd.store.database import Database
from contourd.store.tables import JobRow, SeriesRow
from contourd.system.logs import LineFormatter

NAME = "Zanzibaar^Quentinus"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stumble(instances: list[Instance], predictor: Predictor, order: ContouringOptions) -> NoReturn:  # noqa: ARG001
    """Meet a number that is a name, as pydicom tells it."""
    DSfloat(NAME)
    raise AssertionError("pydicom took a name for a number")


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings.model_validate(
        {
            "spool": {"root": tmp_path},
            "worker": {"max_attempts": 1, "device": "cpu", "runtime": "torch"},
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
    worker = Worker(settings, "w", stumble)
    with caplog.at_level(logging.INFO):
        worker.run_job(worker.fetch_job())
    worker.close()
    with database.reading() as session:
        job = session.get_one(JobRow, 1)
    database.close()
    assert (job.state, str(job.reason)) == ("FAILED", "ValueError; the log says where")
    lines = [LineFormatter().format(record) for record in caplog.records]
    (failed,) = [line for line in lines if line.startswith("the job failed")]
    assert "valuerep.py" in failed
    assert failed.endswith("\n  ValueError")
    assert NAME not in "".join(lines)
