"""A worker that hangs over its lease, wakes, and finishes late: nothing of it is recorded, sent, or left in the way."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from contourd.contour.contouring import contour_series
from contourd.errors import QueueUnavailable
from contourd.reasons.catalogue import HoldReason
from contourd.settings import load_settings
from contourd.store.queue import Queue
from contourd.store.states import JobState
from contourd.store.tables import ContouringRow, DeliveryRow, JobRow
from contourd.transfer.copies import LocalCopies
from tests.contoured import activate, close_bench, open_bench
from tests.interop.node import write_configuration
from tests.reasons import because


@pytest.fixture
def bench(tmp_path, fit_bundle):
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)})
    bench = open_bench(load_settings(configuration))
    activate(bench, fit_bundle)
    yield bench
    close_bench(bench)


def test_what_a_worker_finishes_that_lost_its_lease_counts_for_nothing(bench, make_series):
    job, queue = bench.add(make_series("p1")), Queue(bench.database)

    def hang(instances, predictor, order):
        (lease,) = queue.list_leases()
        assert queue.revoke_lease(lease, because("it hung"), 3)
        bench.contour = contour_series
        assert bench.work().state == JobState.DELIVERING  # under the same name: its token alone tells them apart
        return contour_series(instances, predictor, order)

    bench.contour = hang
    late = queue.fetch_job("bench", 60)
    bench.worker.run_job(late)
    with bench.database.reading() as session:
        row = session.get_one(JobRow, job)
        assert (row.state, row.claims, row.attempts) == (JobState.DELIVERING, 2, 2)
        assert list(session.scalars(select(DeliveryRow.output))) == [f"outgoing/{job}-c2.dcm"]
        assert len(list(session.scalars(select(ContouringRow)))) == 1
    assert [path.name for path in (bench.root / "outgoing").iterdir()] == [f"{job}-c2.dcm"]


@pytest.mark.parametrize("step", ["bring", "give"])
def test_a_job_whose_index_of_what_is_stored_cannot_be_read_is_given_back_and_goes_on(
    bench, make_series, monkeypatch, step
):
    """PostgreSQL is restarted while the images are fetched, or the structure sets stored: nobody is to be asked."""
    bench.add(make_series("p1"))

    def away(copies, paths):  # noqa: ARG001
        raise QueueUnavailable("the database is being started")

    with monkeypatch.context() as patch:
        patch.setattr(LocalCopies, step, away)
        row = bench.work()
    assert (row.state, row.attempts, row.reason.code) == (JobState.QUEUED, 0, HoldReason.DATABASE_AWAY)
    assert bench.work().state == JobState.DELIVERING
