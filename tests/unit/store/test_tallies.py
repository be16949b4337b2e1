"""The numbers that the database keeps: always those that counting gives, whatever changed the rows."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import delete, select, text, update

from contourd.delivery.deliveries import Deliveries
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState
from contourd.store.tables import AttemptRow, DeliveryRow, InstanceRow, JobRow, SeriesRow
from contourd.store.tallies import ATTEMPTS, DELIVERIES, INSTANCES, JOBS, SERIES, Tally, count_all, read_tallies
from tests import showcase
from tests.queueing import FULL, POLICY, TAKEN, Clock, add_job

pytestmark = pytest.mark.both_databases

TABLES = (SERIES, INSTANCES, JOBS, DELIVERIES, ATTEMPTS)


def kept(database: Database) -> dict[str, list[Tally]]:
    with database.reading() as session:
        return {table: read_tallies(session, table) for table in TABLES}


def counted(database: Database) -> dict[str, list[Tally]]:
    """Count the rows one by one."""
    with database.reading() as session:
        kinds = {
            SERIES: [("", row.state, None) for row in session.scalars(select(SeriesRow))],
            INSTANCES: [("", "", None) for _ in session.scalars(select(InstanceRow))],
            JOBS: [("", row.state, None) for row in session.scalars(select(JobRow))],
            DELIVERIES: [(row.destination, row.state, None) for row in session.scalars(select(DeliveryRow))],
            ATTEMPTS: [(row.destination, row.outcome, row.status) for row in session.scalars(select(AttemptRow))],
        }
    found = {
        table: [Tally(destination, state, status, number) for (destination, state, status), number in of_table.items()]
        for table, of_table in ((table, Counter(rows)) for table, rows in kinds.items())
    }
    return {
        table: sorted(t, key=lambda x: (x.destination, x.state, -1 if x.status is None else x.status))
        for table, t in found.items()
    }


def test_a_job_on_its_way_is_counted_once_wherever_it_is(database):
    clock = Clock()
    queue, deliveries = Queue(database, clock), Deliveries(database, POLICY, clock)
    for number in (1, 2):
        add_job(database, number, "pacs,tps")
    assert kept(database) == {
        SERIES: [Tally("", "COMPLETE", None, 2)],
        INSTANCES: [Tally("", "", None, 4)],
        JOBS: [Tally("", "QUEUED", None, 2)],
        DELIVERIES: [],
        ATTEMPTS: [],
    }
    job = queue.fetch_job("w", 60.0)
    assert kept(database)[JOBS] == [Tally("", "CONTOURING", None, 1), Tally("", "QUEUED", None, 1)]
    queue.finish_job(job.claim, {"pacs": "out/1", "tps": "out/1"})
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)
    deliveries.postpone_delivery(deliveries.fetch_delivery("tps"), FULL, 0)
    assert kept(database)[ATTEMPTS] == [Tally("pacs", "accepted", 0, 1), Tally("tps", "retry", 0xA700, 1)]
    assert kept(database) == counted(database)


def test_of_every_kind_of_row_the_number_is_that_of_counting(database, tmp_path):
    showcase.fill_queue(database, Spool(tmp_path / "spool"))
    assert kept(database) == counted(database)
    assert all(kept(database).values())
    changes = (
        update(JobRow).values(state=JobState.SUPERSEDED),
        update(JobRow).values(reason_detail="another"),
        update(DeliveryRow).where(DeliveryRow.id == 1).values(destination="elsewhere"),
        update(AttemptRow).values(status=None),
        delete(AttemptRow).where(AttemptRow.id == 1),
        delete(InstanceRow).where(InstanceRow.series_id == 3),
    )
    for change in changes:
        before = kept(database)
        with database.transaction() as session:
            assert session.execute(change).rowcount
        assert kept(database) == counted(database), change
        assert (kept(database) == before) == ("reason" in str(change.compile().params))


def test_what_is_undone_is_not_counted(database):
    add_job(database)
    before = kept(database)
    with database.transaction() as session:
        session.execute(update(JobRow).values(state=JobState.FAILED))
        session.rollback()
    assert kept(database) == before


def test_an_upgrade_counts_what_was_there_and_a_downgrade_leaves_no_trigger(database, tmp_path):
    showcase.fill_queue(database, Spool(tmp_path / "spool"))
    database.downgrade("0002")
    with database.transaction() as session:
        triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%tallied%'"
        if database.is_sqlite:
            triggers = "SELECT count(*) FROM sqlite_master WHERE sql LIKE '%tallies%'"
        assert session.scalar(text(triggers)) == 0
        session.execute(text("UPDATE jobs SET state = 'FAILED'"))
    database.upgrade()
    assert kept(database) == counted(database)
    with database.reading() as session:
        assert kept(database)[JOBS] == [Tally("", "FAILED", None, count_all(session, JOBS))]
