"""The plans by which SQLite answers what is asked all day: by an index, whatever the queue remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event, text

from contourd.delivery.deliveries import Deliveries
from contourd.intake.waiting_images import arriving_images
from contourd.observe.counts import read_standing
from contourd.observe.overview import read_details
from contourd.observe.report import newest_jobs, read_report
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JOBS_NOT_ENDED, SeriesState
from contourd.store.tables import JobRow, SeriesRow
from tests import showcase
from tests.queueing import POLICY, START


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Database:
    """Give it something of every kind, so that every query is asked."""
    showcase.fill_queue(database, Spool(tmp_path / "spool"))
    return database


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
    for call in (lambda: queue.fetch_job("w", 60.0), lambda: deliveries.fetch_delivery("pacs"), queue.list_leases):
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
    query = newest_jobs(JobRow.state.not_in(JOBS_NOT_ENDED), 50).compile(
        database.engine, compile_kwargs={"literal_binds": True}
    )
    with database.engine.connect() as connection:
        found = [str(row[-1]) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    assert found[0] == "SCAN jobs"  # backwards by its primary key, until there are enough
    assert not any("TEMP B-TREE" in line for line in found)


def test_what_people_and_prometheus_see_is_read_by_indexes(node):
    names = ("pacs", "tps")
    reads = (read_report, read_standing, lambda database: read_details(database, names))
    for read in reads:
        found = plans(node, asked(node, lambda read=read: read(node)))
        assert "SEARCH tallies USING INDEX sqlite_autoindex_tallies_1 (table_name=?)" in found
        # The newest jobs from the end, until there are enough; and the models that were ever put into use.
        assert {line for line in found if line.startswith("SCAN")} <= {"SCAN jobs", "SCAN activations"}


def test_tries_of_a_destination_are_found_by_an_index_and_not_sorted(node):
    tries = [s for s in asked(node, lambda: read_report(node)) if "FROM attempts" in s[0]]
    found = plans(node, tries)
    assert len(found) >= 4
    assert all(line.startswith("SEARCH attempts USING") for line in found), found
