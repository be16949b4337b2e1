"""What no person can have done: a name in a reason, work on removed files, a delivery that was never made."""

from __future__ import annotations

from datetime import timedelta

import pydicom
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.errors import InvalidTransition, PatientNamed
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import DeliveryRow, InstanceRow, JobRow, SeriesRow
from tests.operating import PROFILES, contour, deliver, deliveries, read, trail
from tests.phantom import phantom
from tests.queueing import in_force
from tests.reasons import because

pytestmark = pytest.mark.both_databases


@pytest.fixture
def named(database, job, clock, tmp_path) -> int:
    """A job whose image says whose it is."""
    write_ct_series(phantom(), tmp_path / "ct", SeriesIdentity("1", "x"))
    path = min((tmp_path / "ct").iterdir())
    ds = pydicom.dcmread(path)
    ds.PatientName, ds.PatientID = "Zanzibaar^Quentinus", "PIDQX4711"
    ds.save_as(path)
    with database.transaction() as session:
        row = InstanceRow(
            series_id=1, sop_instance_uid="1.2.3.4", path=f"ct/{path.name}", sha256="", received_at=clock()
        )
        session.add(row)
    return job


REASON = "Mr Zanzibaar moved"


@pytest.mark.parametrize(
    "act",
    [
        lambda marie, job: marie.hold(job, REASON),
        lambda marie, job: marie.cancel(job, "as PIDQX4711 asked"),
        lambda marie, job: marie.retry(job, REASON),
        lambda marie, job: marie.release_series(1, 1.0, REASON),
    ],
)
def test_a_reason_that_names_the_patient_is_refused_and_nothing_is_done(database, marie, named, act):
    with database.transaction() as session:
        session.get_one(SeriesRow, 1).state = SeriesState.HELD
    with pytest.raises(PatientNamed, match="give one without"):
        act(marie, named)
    assert read(database, named).state == JobState.QUEUED
    assert trail(database) == []
    marie.hold(named, "he moved")
    assert read(database, named).state == JobState.HELD


def test_what_retention_removed_is_neither_taken_up_again_nor_contoured_again(database, marie, job, clock):
    marie.cancel(job, "mistake")
    with database.transaction() as session:
        session.get_one(SeriesRow, 1).purged_at = clock()
    with pytest.raises(InvalidTransition, match="retention removed the images"):
        marie.retry(job)
    with pytest.raises(InvalidTransition, match="retention removed the images"):
        marie.recontour(job, "hn7")
    assert read(database, job).state == JobState.CANCELLED


def test_a_delivery_that_a_person_held_is_given_its_time_anew(queue, sending, marie, job, clock):
    contour(queue, job)
    assert [one.job_id for one in sending.list_waiting("pacs")] == [job]
    marie.hold(job, "wait")
    assert sending.list_waiting("pacs") == []  # neither probed for nor given up
    clock.now += timedelta(days=30)
    marie.retry(job)
    assert [one.created_at for one in sending.list_waiting("pacs")] == [clock.now]


def test_a_held_delivery_is_not_touched_by_what_becomes_of_its_destination(
    database, queue, sending, marie, job, clock
):  # fmt: skip
    contour(queue, job)
    marie.hold(job, "wait")
    sending.postpone_all("pacs", 600, because("pacs: no answer"))
    with database.reading() as session:
        row = session.get_one(DeliveryRow, 1)
    assert (row.reason, row.not_before) == (None, clock.now)


def test_what_is_being_sent_while_its_job_is_cancelled_is_not_sent_again(database, queue, sending, marie, job):
    contour(queue, job)
    under_way = sending.fetch_delivery("pacs")
    marie.cancel(job, "mistake")
    sending.postpone_delivery(under_way, Outcome(OutcomeKind.RETRY, "pacs: busy", 0xA700), 0.0)
    with database.reading() as session:
        row = session.get_one(DeliveryRow, under_way.id)
    assert (row.state, str(row.reason)) == (DeliveryState.REFUSED, "cancelled by marie: mistake; pacs: busy")


def test_a_job_is_not_delivered_without_the_structure_set_that_was_to_be_written(
    database, queue, sending, marie, job
):  # fmt: skip
    contour(queue, job)
    deliver(sending)
    marie.resend(job, "tps", PROFILES)
    queue.fetch_job("w", 60)
    queue.hold_job(in_force(queue, job), because("the structure set reads back otherwise"))
    marie.retry(job)
    assert read(database, job).state == JobState.QUEUED  # what pacs has would be no answer for tps
    contour(queue, job, {"pacs": "outgoing/1.dcm", "tps": "outgoing/1-2.dcm"})
    assert read(database, job).state == JobState.DELIVERING
    deliver(sending, "tps")
    assert read(database, job).state == JobState.DELIVERED
    assert deliveries(database) == {"pacs": DeliveryState.DELIVERED, "tps": DeliveryState.DELIVERED}


def test_what_waits_for_its_commitment_is_asked_after_and_not_sent_twice(database, queue, sending, marie, job, clock):
    contour(queue, job)
    sending.await_commitment(sending.fetch_delivery("pacs"), Outcome(OutcomeKind.ACCEPTED, "", 0x0000))
    clock.now += timedelta(hours=1)
    marie.resend(job, "pacs", PROFILES)
    assert sending.fetch_delivery("pacs") is None
    with database.reading() as session:
        row = session.get_one(DeliveryRow, 1)
        assert session.get_one(JobRow, job).state == JobState.DELIVERING
    assert (row.state, row.not_before) == (DeliveryState.SENT, clock.now)
