"""What a constancy check sends goes to its receiver or nowhere, disturbs no patient, and is gone when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import selectinload

from contourd.constancy.requests import ConstancyChecks
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.series import Instance, read_instance
from contourd.errors import InvalidTransition
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.intake.intake import Intake
from contourd.node.retention import Retention
from contourd.observe.concerns import read_concerns
from contourd.observe.counts import EventCounters, read_standing
from contourd.observe.report import read_report
from contourd.operations.operations import Operations
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import RetentionSettings, Route, SeriesSettings, Settings
from contourd.spool.folder import Spool
from contourd.store.callers import last_call
from contourd.store.constancy_result import ConstancyResult, ModelConstancy
from contourd.store.constancy_series import LOOPBACK_RECEIVER
from contourd.store.constancy_standing import ConstancyLight, read_constancy
from contourd.store.queue import Queue
from contourd.store.states import ConstancyState
from contourd.store.tables import AuditRow, JobRow, SeriesRow
from tests.databases import open_queue
from tests.paging import settings_for
from tests.queueing import Clock
from tests.reasons import because

pytestmark = pytest.mark.both_databases

TOKEN = "CONTOURD-CONSTANCY-0123456789abcdef"
GREEN = ConstancyResult(
    models=(ModelConstancy(model="m", name="m", version="1", sha256="a", seconds=1, baseline_seconds=1),)
)


class Node:
    """Reception and queue over one spool."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.spool, self.database = Spool(folder / "spool"), open_queue(folder)
        self.database.upgrade()
        self.queue, self.checks = Queue(self.database, self.clock), ConstancyChecks(self.database, self.clock)
        series, routes = SeriesSettings(quiet_s=10, gapped_s=60), (Route(model="hn7", destinations=("pacs",)),)
        self.intake = Intake(self.database, self.spool.root, series, routes, self.clock, self.clock.elapsed)
        self.retention = Retention(self.database, self.spool, RetentionSettings(), self.clock, self.clock.elapsed)
        self.associations = 0

    def series(self, patient_id: str) -> list[Path]:
        volume = Volume(Grid.regular((20, 8, 8), (3.0, 1.0, 1.0), (0, 0, 0)), np.zeros((20, 8, 8), np.int16))
        folder = write_ct_series(volume, self.folder / patient_id, SeriesIdentity(patient_id, "Test^Test"))
        return sorted(folder.iterdir())

    def send(self, paths: list[Path]) -> None:
        self.associations += 1
        self.intake.association_opened(self.associations, "CT1", "127.0.0.1")
        for path in paths:
            image = read_instance(path)
            stored = self.spool.store_instance([path.read_bytes()])
            names = (image.series_instance_uid, image.sop_instance_uid)
            self.intake.instance_stored(
                ReceivedInstance(self.associations, "CT1", *names, stored, stored_sha256(path), "p")
            )
        self.intake.association_closed(self.associations, aborted=False)
        self.clock.advance(60)
        self.intake.close_quiet()

    def begun(self, paths: list[Path], model: str = "bright") -> int:
        """Begin a check that has written down what it will send."""
        number = self.checks.request("contourd")
        self.checks.begin(number)
        images = [read_instance(path) for path in paths]
        self.checks.register(number, images[0].series_instance_uid, model, uids(images))
        return number

    def rows(self) -> tuple[list[SeriesRow], list[JobRow]]:
        with self.database.reading() as session:
            return session.query(SeriesRow).all(), session.query(JobRow).options(
                selectinload(JobRow.destination_rows)
            ).all()


def uids(images: list[Instance]) -> list[str]:
    return [i.sop_instance_uid for i in images]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.database.close()


def test_a_registered_series_goes_to_the_receiver_and_its_model(node):
    paths = node.series(TOKEN)
    node.begun(paths)
    node.send(paths)
    _, (job,) = node.rows()
    assert (job.model, list(job.destinations), job.state) == ("bright", [LOOPBACK_RECEIVER], "QUEUED")


@pytest.mark.parametrize(("over", "extra", "reason"), [
    (True, False, "the constancy check that sent the series is over"),
    (False, True, "the images are not those that the constancy check sent"),
])  # fmt: skip
def test_a_registered_series_that_is_not_as_it_should_be_is_sent_nowhere(node, over, extra, reason):
    paths = node.series(TOKEN)
    number = node.begun(paths[1:] if extra else paths)
    if over:
        node.checks.end(number, ConstancyState.RED, "it hung")
    node.send(paths)
    (series,), jobs = node.rows()
    assert (series.state, jobs) == ("HELD", [])
    assert str(series.reason).startswith(reason)


def test_a_series_that_no_check_knows_is_sent_nowhere_and_shown_to_a_person(node):
    node.send(node.series(TOKEN))  # as after the restore of an older backup
    (series,), jobs = node.rows()
    assert (series.state, jobs) == ("HELD", [])
    assert "a constancy check that contourd does not know" in str(series.reason)
    assert [line.state for line in read_report(node.database).series] == ["HELD"]


def test_a_patient_goes_to_the_destinations_while_a_check_is_under_way(node):
    node.begun(node.series(TOKEN))
    node.send(node.series("patient"))
    _, (job,) = node.rows()
    assert (job.model, list(job.destinations)) == ("hn7", ["pacs"])


def test_patients_go_first(node):
    own, patient = node.series(TOKEN), node.series("patient")
    node.begun(own)
    node.send(own)
    node.send(patient)
    claims = [node.queue.fetch_job("w", 60), node.queue.fetch_job("w", 60), node.queue.fetch_job("w", 60)]
    assert [job.model if job else None for job in claims] == ["hn7", "bright", None]


def test_a_check_is_in_no_list_no_count_and_no_alert_of_patients(node):
    history = EventCounters(node.database, print)
    paths = node.series(TOKEN)
    number = node.begun(paths)
    node.send(paths)
    job = node.queue.fetch_job("w", 60)
    node.queue.hold_job(job.claim, because("no patient found"))
    report, standing = read_report(node.database), read_standing(node.database)
    history.catch_up()
    assert (set(report.counts.values()), report.jobs, report.series, report.destinations) == ({0}, (), (), ())
    assert (set(standing.jobs.values()), set(standing.series.values()), standing.instances) == ({0}, {0}, 0)
    assert (standing.oldest_open, dict(history.held)) == (None, {})
    assert read_concerns(node.database, node.clock() + timedelta(days=1), 1, 1) == []
    assert last_call(node.database, "CT1") is None
    assert node.checks.progress(read_instance(paths[0]).series_instance_uid).trouble == (
        f"job {job.id} is held: no patient found"
    )
    assert node.checks.get(number).state == ConstancyState.RUNNING


def test_nobody_can_send_it_elsewhere(node):
    paths = node.series(TOKEN)
    node.begun(paths)
    node.send(paths)
    job = node.queue.fetch_job("w", 60)
    node.queue.finish_job(job.claim, {LOOPBACK_RECEIVER: "outgoing/1.dcm"})
    person = Operations(node.database, "anna", node.spool.root, node.clock)
    for act in (
        lambda: person.resend(job.id, "pacs", {"pacs": {"rtstruct": ""}}),
        lambda: person.recontour(job.id, "hn7"),
        lambda: person.retry(job.id),
        lambda: person.release_series(1, 60),
    ):
        with pytest.raises(InvalidTransition, match=r"constancy check's own|cannot take release"):
            act()


def test_a_restart_ends_it_as_red_and_leaves_nothing(node):
    paths = node.series(TOKEN)
    number = node.begun(paths)
    node.send(paths)
    job = node.queue.fetch_job("w", 60)
    node.queue.finish_job(
        job.claim, {LOOPBACK_RECEIVER: node.spool.store_output(job.id, job.claim.token, b"structure set")}
    )
    node.checks.recover()
    check = node.checks.get(number)
    assert (check.state, check.reason.partition(";")[0]) == ("RED", "contourd was stopped or killed in mid-check")
    (series,), (row,) = node.rows()
    assert (series.state, row.state, str(row.reason)) == ("COMPLETE", "CANCELLED", str(Reason(HoldReason.CHECK_OVER)))
    node.retention.run()
    assert list((node.spool.root / "incoming").glob("*/*")) == list((node.spool.root / "outgoing").iterdir()) == []
    assert not node.checks.end(number, ConstancyState.GREEN, "")  # too late
    node.send(paths[:3])  # what was on its way comes after all
    node.retention.run()
    assert list((node.spool.root / "incoming").glob("*/*")) == []


def test_a_series_that_was_half_received_is_closed(node):
    paths = node.series(TOKEN)
    number = node.begun(paths)
    node.intake.association_opened(7, "CT1", "127.0.0.1")
    node.send(paths[:10])  # too few, and not waited for long enough
    assert node.checks.end(number, ConstancyState.RED, "the node took 10 of 20 images")
    node.retention.run()
    (series,), jobs = node.rows()
    assert (series.state, jobs, list((node.spool.root / "incoming").glob("*/*"))) == ("HELD", [], [])


def test_a_try_that_broke_a_worker_is_red(node):
    paths = node.series(TOKEN)
    node.begun(paths)
    node.send(paths)
    job = node.queue.fetch_job("w", 60)
    assert node.checks.progress(job.series_uid).trouble == ""
    node.queue.release_jobs_of("w", because("the worker died"), 2)
    told = node.checks.progress(job.series_uid).trouble
    assert told == f"job {job.id} did not end at its first try: the worker died"


def test_one_at_a_time_and_audited(node):
    number = node.checks.request("anna", "baseline")
    with pytest.raises(InvalidTransition, match=f"constancy baseline {number} is under way, asked for by anna"):
        node.checks.request("contourd")
    node.checks.begin(number)
    node.checks.end(number, ConstancyState.GREEN, "", GREEN)
    red = node.checks.request("contourd")
    node.checks.begin(red)
    node.checks.end(red, ConstancyState.RED, "it took long")
    with node.database.reading() as session:
        rows = [(r.actor, r.action, r.subject, r.detail) for r in session.query(AuditRow).order_by(AuditRow.id)]
    assert rows == [
        ("anna", "constancy baseline", "constancy 1", "made"),
        ("contourd", "constancy check", "constancy 2", "red; it took long"),
    ]
    with pytest.raises(InvalidTransition, match="is over"):
        node.checks.register(red, "1.2.3", "hn7", ["1.2.3.1"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, 1, {})


def ended(node: Node, at: datetime, state: ConstancyState, reason: str = "") -> None:
    node.clock.now = at
    number = node.checks.request("contourd")
    node.checks.begin(number)
    node.checks.end(number, state, reason, GREEN)


def test_how_it_stands(node, settings, tmp_path):
    due = settings.constancy.last_due(datetime.now(UTC))  # the baseline is dated by its file
    assert read_constancy(node.database, settings, due).light is ConstancyLight.UNBASED
    (tmp_path / "spool" / "constancy-baseline.json").touch()
    now = datetime.now(UTC)
    assert read_constancy(node.database, settings, now).light is ConstancyLight.UNCHECKED
    next_due = settings.constancy.last_due(now + timedelta(days=1))
    in_time, late = next_due + timedelta(seconds=60), next_due + timedelta(hours=3)
    assert read_constancy(node.database, settings, in_time).light is ConstancyLight.UNCHECKED
    overdue = read_constancy(node.database, settings, late)
    assert (overdue.light, overdue.overdue) == (ConstancyLight.RED, next_due)
    ended(node, in_time, ConstancyState.RED, "Larynx has Dice 0.5")
    red = read_constancy(node.database, settings, late)
    assert (red.light, red.reason, red.overdue) == (ConstancyLight.RED, "Larynx has Dice 0.5", None)
    ended(node, late, ConstancyState.GREEN)
    assert read_constancy(node.database, settings, late).light is ConstancyLight.GREEN
    tomorrow = read_constancy(node.database, settings, late + timedelta(days=1))
    assert (tomorrow.light, tomorrow.overdue) == (
        ConstancyLight.RED,
        settings.constancy.last_due(late + timedelta(days=1)),
    )
    off = settings.model_copy(update={"constancy": settings.constancy.model_copy(update={"enabled": False})})
    assert (
        read_constancy(node.database, off, late + timedelta(days=1)).light is ConstancyLight.GREEN
    )  # by hand, that day


def test_a_check_is_due_by_the_time_of_day(settings):
    now = datetime(2026, 3, 10, 6, 29).astimezone()
    assert settings.constancy.last_due(now) == datetime(2026, 3, 9, 6, 30).astimezone()
    assert settings.constancy.last_due(now + timedelta(minutes=1)) == datetime(2026, 3, 10, 6, 30).astimezone()
