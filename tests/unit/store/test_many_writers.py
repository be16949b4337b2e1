"""What several processes do to PostgreSQL's queue at the same moment: nothing is lost, doubled or waited for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select, text

from contourd.constancy.requests import ConstancyChecks
from contourd.delivery.commitment_requests import CommitmentRequests
from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.commitment_messages import CommitmentRequest, InstanceReference
from contourd.dicom.network.events import ReceivedInstance, RefusedInstance
from contourd.errors import InvalidTransition, LeaseLost
from contourd.intake.intake import Intake
from contourd.model.model_identity import ModelIdentity
from contourd.models.activations import Activation, Activations
from contourd.node.retention import Retention
from contourd.observe.counts import EventCounters
from contourd.operations.operations import Operations
from contourd.settings import RetentionSettings
from contourd.spool.folder import Spool
from contourd.store.audit import AuditEntry, AuditTrail
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import (
    ConstancyCheckRow,
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobRow,
    RefusalRow,
    SeriesRow,
)
from contourd.store.tallies import INSTANCES, JOBS, read_tallies
from contourd.system.clock import utc_now
from tests.intake_node import ROUTE, SETTINGS
from tests.queueing import POLICY, TAKEN, Clock, add_job, state
from tests.reasons import because

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
LONGEST_WAIT_S = 20


pytestmark = pytest.mark.usefixtures("in_postgresql")


@pytest.fixture
def database(others) -> Database:
    return others()


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Do all at the same moment; what one returns or raises, in their order."""
    begin = threading.Barrier(len(acts))

    def do(act: Callable[[], object]) -> object:
        begin.wait(LONGEST_WAIT_S)
        try:
            return act()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(do, acts))


@contextmanager
def meanwhile(database: Database, waiting: int, *acts: Callable[[], object]) -> Iterator[list[object]]:
    """Do acts while the caller's transaction is open, until so many of them wait for a lock; they end after it."""
    found: list[object] = []
    with ThreadPoolExecutor(len(acts)) as pool:
        done = [pool.submit(act) for act in acts]
        with psycopg.connect(database.url, autocommit=True) as watching:
            deadline = time.monotonic() + LONGEST_WAIT_S
            locked = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            while watching.execute(locked).fetchone()[0] < waiting:  # type: ignore[index]
                assert time.monotonic() < deadline, "nobody waits"
                time.sleep(0.005)
        yield found
        found += [one.exception() or one.result() for one in done]


def count(database: Database, table: type, *conditions) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table).where(*conditions))


def test_each_job_is_claimed_once_however_many_claim(others, database):
    jobs = {add_job(database, number) for number in range(1, 21)}
    claimed: list[int] = []

    def claim(worker: str, queue: Queue) -> None:
        while (job := queue.fetch_job(worker, 60)) is not None:
            claimed.append(job.id)

    workers = [(f"worker {n}", Queue(others())) for n in range(6)]
    assert at_once(*(partial(claim, *worker) for worker in workers)) == [None] * 6
    assert sorted(claimed) == sorted(jobs)


def intake_of(database: Database, root: Path) -> Intake:
    return Intake(database, root, SETTINGS, (ROUTE,))


def image(root: Path, association: int, series: str, number: int, content: bytes = b"an image") -> ReceivedInstance:
    path = f"{series}-{number}-{association}.dcm"
    (root / path).write_bytes(content)
    return ReceivedInstance(association, "CT1", series, f"{series}.{number}", path, "0" * 64, "pseudonym")


def test_two_receivers_of_one_new_series_make_one_series_of_it(others, tmp_path):
    receivers = [intake_of(others(), tmp_path) for _ in range(4)]

    def receive(number: int) -> None:
        for image_number in range(number, 40, 4):
            receivers[number].instance_stored(image(tmp_path, number, "1.2.3", image_number))

    assert at_once(*(partial(receive, n) for n in range(4))) == [None] * 4
    database = others()
    assert count(database, SeriesRow) == 1
    assert count(database, InstanceRow) == 40
    assert count(database, EventRow, EventRow.subject == "series") == 1
    with database.reading() as session:
        assert [tally.number for tally in read_tallies(session, INSTANCES)] == [40]


def test_series_that_come_through_two_receivers_in_opposite_orders_do_not_lock_each_other_out(others, tmp_path):
    uids = [f"1.2.{n}" for n in range(6)]
    receivers = [intake_of(others(), tmp_path) for _ in range(2)]

    def receive(which: int, order: Sequence[str]) -> None:
        def send(uid: str) -> None:
            for number in range(which, 20, 2):
                receivers[which].instance_stored(image(tmp_path, which, uid, number))

        with ThreadPoolExecutor(len(order)) as pool:
            list(pool.map(send, order))

    assert at_once(lambda: receive(0, uids), lambda: receive(1, uids[::-1])) == [None, None]
    assert count(others(), InstanceRow) == 6 * 20


def test_an_image_that_comes_by_two_associations_at_once_is_one_image(others, tmp_path):
    receivers = [intake_of(others(), tmp_path) for _ in range(2)]
    images = [image(tmp_path, n, "1.2.3", 1) for n in range(2)]
    received = [partial(receivers[n].instance_stored, images[n]) for n in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contourd.intake.image_recorder.stored_sha256", lambda path: "0" * 64)
        assert at_once(*received) == [None, None]
    database = others()
    assert count(database, InstanceRow) == 1
    with database.reading() as session:
        (kept,) = session.scalars(select(InstanceRow.path))
    assert [path.name for path in tmp_path.glob("*.dcm")] == [kept]


def test_the_same_refusal_by_two_receivers_is_one(others, tmp_path):
    receivers = [intake_of(others(), tmp_path) for _ in range(2)]
    refused = RefusedInstance(1, "CT1", "1.2.3", "1.2.3.1", "0" * 64)
    at_once(*(partial(one.instance_refused, refused) for one in receivers))
    assert count(others(), RefusalRow) == 1


def test_a_series_is_not_closed_over_an_image_that_is_being_recorded(others, database, tmp_path):
    """The image is recorded first, and the closing waits for it: it finds a series that is not quiet any more."""
    node = intake_of(database, tmp_path)
    node.instance_stored(image(tmp_path, 1, "1.2.3", 1))
    node.association_opened(1, "CT1", "")
    with database.transaction() as session:
        session.execute(text("UPDATE series SET last_instance_at = last_instance_at - interval '1 day'"))
    closing = intake_of(others(), tmp_path)
    with others().transaction() as session:
        series = session.scalars(select(SeriesRow).with_for_update()).one()
        with meanwhile(database, 1, closing.close_quiet):
            series.last_instance_at = utc_now()
            session.commit()
    with database.reading() as session:
        assert session.scalars(select(SeriesRow.state)).one() == SeriesState.RECEIVING


def contoured(database: Database, number: int = 1, destinations: str = "pacs,tps") -> int:
    job = add_job(database, number, destinations)
    claimed = Queue(database).fetch_job("w", 60)
    Queue(database).finish_job(claimed.claim, dict.fromkeys(destinations.split(","), "1.dcm"))
    return job


def test_the_last_two_deliveries_of_a_job_end_it_together(others, database):
    """Neither sees the other's end before its own is committed, unless they take turns."""
    for number in range(1, 11):
        job = contoured(database, number)
        senders = [Deliveries(others(), POLICY) for _ in range(2)]
        claimed = [senders[n].fetch_delivery(name) for n, name in enumerate(("pacs", "tps"))]
        ends = [partial(senders[n].finish_delivery, claimed[n], TAKEN) for n in range(2)]
        assert at_once(*ends) == [None, None]
        assert state(database, job) == JobState.DELIVERED


def test_each_delivery_is_claimed_once(others, database):
    for number in range(1, 11):
        contoured(database, number, "pacs")
    claimed: list[int] = []

    def claim(sending: Deliveries) -> None:
        while (delivery := sending.fetch_delivery("pacs")) is not None:
            claimed.append(delivery.id)

    senders = [Deliveries(others(), POLICY) for _ in range(4)]
    assert at_once(*(partial(claim, sender) for sender in senders)) == [None] * 4
    assert len(claimed) == len(set(claimed)) == 10


def test_a_delivery_that_is_being_claimed_is_not_cancelled_under_way(others, database, tmp_path):
    job = contoured(database, destinations="pacs")
    marie = Operations(others(), "marie", tmp_path)
    (tmp_path / "incoming").mkdir()
    with others().transaction() as session:
        delivery = session.scalars(select(DeliveryRow).with_for_update()).one()
        with meanwhile(database, 1, lambda: marie.cancel(job, "sent by mistake")) as done:
            delivery.state = DeliveryState.SENDING
            session.commit()
    assert done == [None]
    with database.reading() as session:
        assert session.scalars(select(DeliveryRow.state)).one() == DeliveryState.SENDING
    assert state(database, job) == JobState.CANCELLED


def test_a_job_that_is_cancelled_while_it_is_claimed_ends_once(others, database, tmp_path):
    for number in range(1, 9):
        job = add_job(database, number)
        marie, queue = Operations(others(), "marie", tmp_path), Queue(others())
        cancelled, claimed = at_once(partial(marie.cancel, job, "no"), partial(queue.fetch_job, "w", 60))
        assert cancelled is None
        assert state(database, job) == JobState.CANCELLED
        if claimed is not None:
            with pytest.raises(LeaseLost):
                queue.finish_job(claimed.claim, {"pacs": "1.dcm"})


def test_a_result_that_comes_when_its_lease_is_revoked_is_either_taken_or_lost(others, database, tmp_path):
    for number in range(1, 9):
        job = add_job(database, number)
        queue, watch = Queue(others()), Queue(others())
        claimed = queue.fetch_job("w", 60)
        (lease,) = watch.list_leases()
        finished, revoked = at_once(
            partial(queue.finish_job, claimed.claim, {"pacs": "1.dcm"}),
            partial(watch.revoke_lease, lease, because("hung"), 3),
        )
        assert isinstance(finished, LeaseLost) == (revoked is True)
        assert state(database, job) == (JobState.QUEUED if revoked else JobState.DELIVERING)
        Operations(database, "marie", tmp_path).cancel(job, "the next one")


def test_two_people_who_act_on_one_job_take_turns(others, database, tmp_path):
    job = contoured(database)
    people = [Operations(others(), name, tmp_path) for name in ("marie", "paul")]
    done = at_once(*(partial(person.cancel, job, "no") for person in people))
    assert {type(one) for one in done} == {InvalidTransition, type(None)}
    ended = EventRow.subject == "job", EventRow.state == JobState.CANCELLED
    assert count(database, EventRow, *ended) == 1


def test_a_name_is_activated_by_one_after_the_other(others):
    def put(database: Database, version: str) -> object:
        model = ModelIdentity("ours", version, "0" * 64)
        return Activations(database, Path()).activate(model, f"models/{version}", "marie", "why", "")

    made = at_once(*(partial(put, others(), version) for version in ("1", "2", "3")))
    assert len({one.id for one in made}) == 3
    back = ("ours", None, "marie", "why")
    takers = [Activations(others(), Path()) for _ in range(3)]
    assert all(isinstance(one, Activation) for one in at_once(*(partial(t.roll_back, *back) for t in takers)))
    with pytest.raises(InvalidTransition, match="nothing to take back"):
        takers[0].roll_back(*back)


def test_of_two_that_ask_for_a_constancy_check_one_is_refused(others):
    done = at_once(*(partial(ConstancyChecks(others()).request, "marie") for _ in range(4)))
    assert sum(isinstance(one, int) for one in done) == 1
    assert count(others(), ConstancyCheckRow) == 1


def test_a_commitment_that_is_asked_for_twice_at_once_is_recorded_once(others):
    request = CommitmentRequest("1.5.1", (InstanceReference(CT_CLASS, "1.2.1"),))
    asked = [CommitmentRequests(others(), POLICY, ["CT1"]) for _ in range(3)]
    assert at_once(*(partial(one.requested, "CT1", request) for one in asked)) == [None] * 3


class SlowSpool(Spool):
    """A spool in which something comes just before a file is removed."""

    comes: Callable[[], None]

    def remove(self, relative: str) -> None:
        self.comes()
        super().remove(relative)


def test_an_image_that_comes_while_its_series_is_removed_stays(others, database, tmp_path):
    """Its row was going to be removed with its file: the one that comes takes its place, and the series is whole."""
    clock = Clock()
    spool = SlowSpool(tmp_path / "spool")
    node = Intake(database, spool.root, SETTINGS, (ROUTE,), clock)
    node.instance_stored(image(spool.root, 1, "1.2.3", 1))
    with database.transaction() as session:
        series = session.scalars(select(SeriesRow)).one()
        series.state = SeriesState.HELD
        series.purged_at = clock()  # killed after that was written down
    came: list[int] = []

    def come() -> None:
        if not came:
            came.append(1)
            for number in (1, 2):
                node.instance_stored(image(spool.root, 2, "1.2.3", number))

    spool.comes = come
    Retention(others(), spool, RetentionSettings(), clock).run()
    assert came
    with database.reading() as session:
        assert sorted(session.scalars(select(InstanceRow.path))) == ["1.2.3-1-2.dcm", "1.2.3-2-2.dcm"]
    assert sorted(path.name for path in spool.root.glob("*.dcm")) == ["1.2.3-1-2.dcm", "1.2.3-2-2.dcm"]


def test_numbers_are_kept_without_a_lock_that_writers_wait_for(others, database):
    """A transaction that has changed rows of a kind stays open; others change rows of the same kind, and are done."""
    writers = [others() for _ in range(4)]
    with others().transaction() as session:
        session.add(SeriesRow(series_uid="9.9", state="RECEIVING", created_at=utc_now(), last_instance_at=utc_now()))
        session.flush()
        begun = time.monotonic()

        def write(n: int) -> None:
            for number in range(25):
                add_job(writers[n], 1000 * n + number + 1)

        assert at_once(*(partial(write, n) for n in range(4))) == [None] * 4
        assert time.monotonic() - begun < LONGEST_WAIT_S
    with database.transaction() as session:
        session.execute(text("SELECT fold_tallies()"))
    with database.reading() as session:
        assert [(t.state, t.number) for t in read_tallies(session, JOBS)] == [("QUEUED", 100)]
        assert session.scalar(text("SELECT count(*) FROM tally_changes")) == 0
        assert count(database, JobRow) == 100


def test_changes_are_taken_together_by_one_and_nobody_waits_for_it(others, database):
    add_job(database)
    with others().transaction() as session:
        session.execute(text("SELECT fold_tallies()"))
        with database.transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = '1ms'"))
            other.execute(text("SELECT fold_tallies()"))
            other.execute(text("UPDATE jobs SET state = 'FAILED'"))
    with database.reading() as session:
        assert [(t.state, t.number) for t in read_tallies(session, JOBS)] == [("FAILED", 1)]


def test_what_is_committed_later_under_a_smaller_number_is_counted_too(others, database):
    counters = EventCounters(database, lambda stage, seconds: None)
    late = others()
    with late.transaction() as session:
        row = "(now(), 'x', 'association accepted', '', '')"
        session.execute(text(f"INSERT INTO audit (at, actor, action, subject, detail) VALUES {row}"))
        AuditTrail(database).record(AuditEntry("y", "association accepted"))
        counters.catch_up()
        assert counters.associations["accepted"] == 1
    counters.catch_up()
    counters.catch_up()
    assert counters.associations["accepted"] == 2


def test_what_is_read_together_is_of_one_moment(others, database):
    with database.reading() as session:
        before = session.scalar(select(func.count()).select_from(JobRow))
        add_job(others())
        assert session.scalar(select(func.count()).select_from(JobRow)) == before == 0
    assert count(database, JobRow) == 1
