"""How much the database grows with each series that was delivered and whose files retention removed: bytes, and a year.

The rows that stay are the series, its job and delivery, and the record of their transitions. ::

    python benchmarks/database_growth.py
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.model.remarks import Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.node.retention import Retention
from contourd.settings import RetentionSettings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState, RetryPolicy, SeriesEvent, SeriesState
from contourd.store.tables import InstanceRow, JobRow, SeriesRow
from contourd.store.transitions import record

SERIES, IMAGES, A_DAY = 60, 200, 20
UID = "2.25.{:039d}"
LARYNX = Finding("Larynx", RemarkCheck.VOLUME, Measure.VOLUME_CC, 1.0, (5.0, 9.0))
REMARKS = Remarks((Remark(LARYNX, RemarkVerdict.FLAG),))


def add_series(database: Database, number: int) -> None:
    """Write down a series as it is when its job waits."""
    now = datetime.now(UTC)
    times = {"created_at": now, "last_instance_at": now}
    with database.transaction() as session:
        series = SeriesRow(
            series_uid=UID.format(number), state=SeriesState.COMPLETE, calling_ae="CT1", patient="0" * 10, **times
        )
        session.add(series)
        session.flush()
        for k in range(IMAGES):
            path = f"incoming/20260101/{number:016x}{k:016x}.dcm"
            uid = UID.format(number * IMAGES + k)
            session.add(
                InstanceRow(series_id=series.id, sop_instance_uid=uid, path=path, sha256="0" * 64, received_at=now)
            )
        job = JobRow(
            series_id=series.id, revision=1, model="hn7", destinations=["pacs"], state=JobState.QUEUED,
            created_at=now, updated_at=now, lease_until=None,
        )  # fmt: skip
        session.add(job)
        session.flush()
        record(session, "series", series.id, SeriesEvent.INSTANCE, SeriesState.RECEIVING, "CT1", now)
        record(session, "series", series.id, SeriesEvent.COMPLETED, SeriesState.COMPLETE, "revision 1", now)
        record(session, "job", job.id, "queued", JobState.QUEUED, "hn7", now)


def deliver_next(queue: Queue, deliveries: Deliveries) -> None:
    """Take the next job to its end."""
    job = queue.fetch_job("worker-1-1", 60)
    assert job is not None
    queue.finish_job(job.claim, {"pacs": f"outgoing/{job.id}.dcm"}, REMARKS)
    delivery = deliveries.fetch_delivery("pacs")
    assert delivery is not None
    deliveries.finish_delivery(delivery, Outcome(OutcomeKind.ACCEPTED, "", 0x0000))


def size_bytes(database: Database, file: Path) -> int:
    """Return the size of the database without the pages that are free."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("COMMIT")  # VACUUM stands outside of a transaction
        connection.execute(text("VACUUM"))
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    return file.stat().st_size


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "contourd.sqlite"
        database = Database(f"sqlite:///{file}")
        database.upgrade()
        queue, deliveries = Queue(database), Deliveries(database, RetryPolicy(30, 1800, 86400))
        settings = RetentionSettings(input_days=0, output_days=0, failed_days=0)
        retention = Retention(database, Spool(Path(folder) / "spool"), settings)
        sizes = []
        for batch in range(2):  # the first fills pages that an empty database has anyway
            for number in range(SERIES):
                add_series(database, batch * SERIES + number)
                deliver_next(queue, deliveries)
            retention.run()
            sizes.append(size_bytes(database, file))
        database.close()
    each = (sizes[1] - sizes[0]) / SERIES
    print(f"{each:.0f} bytes a series; {A_DAY} series a day are {each * A_DAY * 365 / 1e6:.0f} MB a year")


if __name__ == "__main__":
    main()
