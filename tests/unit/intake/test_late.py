"""A slice that comes late: a new revision takes the place of the older one."""

from __future__ import annotations

import pytest

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.store.states import JobState, RetryPolicy, SeriesState
from tests.intake_node import ct

pytestmark = pytest.mark.both_databases


def test_a_late_slice_makes_a_new_revision(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=22)
    node.send(paths[:21])
    node.wait(10)
    node.send(paths[21:])
    series = node.series()
    assert (series.state, series.revision) == (SeriesState.RECEIVING, 2)
    assert [job.state for job in node.jobs()] == [JobState.SUPERSEDED]
    node.wait(10)
    first, second = node.jobs()
    assert (first.state, second.state, second.revision) == (JobState.SUPERSEDED, JobState.QUEUED, 2)


def test_a_late_slice_leaves_what_was_delivered(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=22)
    node.send(paths[:21])
    node.wait(10)
    job = node.queue.fetch_job("w", 60)
    node.queue.finish_job(job.claim, {"pacs": "x"})
    deliveries = Deliveries(node.database, RetryPolicy(30, 1800, 86400))
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), Outcome(OutcomeKind.ACCEPTED, "", 0))
    node.send(paths[21:])
    node.wait(10)
    assert [j.state for j in node.jobs()] == [JobState.DELIVERED, JobState.QUEUED]
    assert node.queue.fetch_job("w", 60).revision == 2


def test_a_late_slice_while_contouring_takes_the_job_from_the_worker(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=22)
    node.send(paths[:21])
    node.wait(10)
    job = node.queue.fetch_job("w", 60)
    node.send(paths[21:])
    with pytest.raises(Exception, match="no longer"):
        node.queue.finish_job(job.claim, {"pacs": "x"})
