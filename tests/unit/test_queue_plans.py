"""The plans by which SQLite answers what is asked all day: by an index, whatever the queue remembers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, text

from contourd.jobs.arriving import arriving_images
from contourd.jobs.database import Database
from contourd.jobs.deliveries import Deliveries
from contourd.jobs.job import SeriesState
from contourd.jobs.queue import Queue
from contourd.jobs.report import OPEN, newest_jobs, read_report
from contourd.jobs.tables import JobRow, SeriesRow
from tests.queueing import POLICY, START


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'queue.sqlite'}")
    database.upgrade()
    yield database
    database.close()


def plans(database: Database, statements: list[tuple[str, object]]) -> list[str]:
    """Ask for the plan of each SELECT; a line of a plan each."""
    lines = []
    with database.engine.connect() as connection:
        for statement, parameters in statements:
            if statement.lstrip().upper().startswith("SELECT"):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                lines += [str(row[-1]) for row in rows]
    return lines


def asked(database: Database, call) -> list[tuple[str, object]]:
    statements: list[tuple[str, object]] = []

    def note(connection, cursor, statement, parameters, context, executemany):  # noqa: ARG001
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    call()
    event.remove(database.engine, "before_cursor_execute", note)
    return statements


def test_claims_search_by_an_index_and_sort_nothing(database):
    queue, deliveries = Queue(database), Deliveries(database, POLICY)
    for call in (lambda: queue.claim("w", 60.0), lambda: deliveries.claim("pacs"), queue.leases):
        found = plans(database, asked(database, call))
        assert found
        assert all("USING" in line and "INDEX" in line for line in found if line.startswith(("SCAN", "SEARCH"))), found
        assert not any("TEMP B-TREE" in line for line in found), found


def test_the_images_to_read_ahead_are_searched_by_an_index(database):
    with database.transaction() as session:
        session.add(SeriesRow(series_uid="1", state=SeriesState.RECEIVING, created_at=START, last_instance_at=START))
    found = plans(database, asked(database, lambda: arriving_images(database, 10)))
    assert sum(line.startswith("SEARCH") for line in found) == 3  # the jobs, the series, its images
    assert all("USING" in line and "INDEX" in line for line in found if line.startswith(("SCAN", "SEARCH"))), found


def test_the_newest_finished_jobs_are_read_from_the_end(database):
    query = newest_jobs(JobRow.state.not_in(OPEN), 50).compile(database.engine, compile_kwargs={"literal_binds": True})
    with database.engine.connect() as connection:
        found = [str(row[-1]) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    assert found[0] == "SCAN jobs"  # backwards by its primary key, until there are enough
    assert not any("TEMP B-TREE" in line for line in found)


def test_counts_come_from_an_index_alone(database):
    found = plans(database, asked(database, lambda: read_report(database)))
    counting = [line for line in found if line.startswith("SCAN jobs USING")]
    assert counting == ["SCAN jobs USING COVERING INDEX jobs_by_state"]
