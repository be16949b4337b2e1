"""A shadow contours the same series when nothing else is to do, is never sent, and gives way to whatever comes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select

from contourd.node.shadow_contourer import ShadowContourer
from contourd.node.shadow_runner import ShadowRunner
from contourd.settings import load_settings
from contourd.store.contourings import read_contoured
from contourd.store.queue import Queue
from contourd.store.shadow_tables import ShadowState
from contourd.store.shadows import Shadows
from contourd.store.states import JobState
from contourd.store.tables import DeliveryRow, JobRow, SeriesRow
from contourd.store.transitions import add_delivery
from tests.bundles import bundle_of_version
from tests.contoured import close_bench, open_bench
from tests.interop.node import write_configuration
from tests.queueing import START
from tests.shadows import add_shadow, agreements_of, shadow_of, with_shadow

LONGEST_S = 120.0
SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")
CRASHES = (sys.executable, "-c", "import os; os.kill(os.getpid(), 11)")
LATER = (sys.executable, "-c", "import sys; sys.exit(75)")


@pytest.fixture
def bench(tmp_path, fit_bundle):
    live = bundle_of_version(fit_bundle, tmp_path / "live", "1")
    candidate = bundle_of_version(fit_bundle, tmp_path / "candidate", "7")
    configuration = write_configuration(tmp_path / "node", 11112, live, {"pacs": ("PACS", 104)})
    bench = open_bench(with_shadow(load_settings(configuration), str(candidate)))
    yield bench
    close_bench(bench)


@pytest.fixture
def runner_of(bench):
    made = []

    def make(command=None, elapsed=time.monotonic) -> ShadowRunner:
        more = {} if command is None else {"command": command}
        runner = ShadowRunner(bench.settings, "bench", bench.database, "", lambda: [""], elapsed, **more)
        made.append(runner)
        return runner

    yield make
    for runner in made:
        runner.give_way()


def contoured(bench, folder) -> int:
    """Contour a series live, with a shadow that waits."""
    job = bench.add(folder)
    add_shadow(bench.database, job, bench.settings.route[0].shadow)
    assert bench.work().state == JobState.DELIVERING
    return job


def run_to_end(runner) -> None:
    runner.tend()
    assert runner.running is not None
    deadline = time.monotonic() + LONGEST_S
    while runner.running is not None and time.monotonic() < deadline:
        time.sleep(0.1)
        runner.tend()
    assert runner.running is None


def contour_here(bench) -> None:
    """Contour the shadow that waits in this process, which has torch already."""
    model = bench.settings.route[0].shadow
    claimed = Shadows(bench.database).claim("bench", "elsewhere", 60, [model], [""])
    ShadowContourer(bench.settings, claimed).run()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_kept_with_the_job_compared_and_not_sent(bench, runner_of, make_series, caplog):
    job = contoured(bench, make_series("p1"))
    live = read_contoured(bench.database, job).contouring
    run_to_end(runner_of())
    assert "the shadow failed" not in caplog.text  # its process ends in order
    shadow = shadow_of(bench.database, job)
    assert (shadow.state, shadow.reason, shadow.model_version) == (ShadowState.COMPARED, None, "7")
    assert shadow.output.startswith(f"outgoing/{job}-shadow")
    assert pydicom.dcmread(bench.root / shadow.output).StructureSetLabel == "SHADOW NOT SENT"
    found = agreements_of(bench.database, job)
    assert found
    for one in found:  # the same weights under another version
        assert (one.dice, one.surface_dice, one.hausdorff_95_mm) == (1.0, 1.0, 0.0)
        assert one.live_cc == one.shadow_cc
        assert one.live_cc > 0
        assert (one.shadow_version, one.live_version, one.live_sha256) == ("7", "1", live.model.sha256)
    with bench.database.reading() as session:
        deliveries = session.scalars(select(DeliveryRow)).all()
        assert [d.output for d in deliveries] == [live.outputs[0].path]
        assert session.get_one(JobRow, job).state == JobState.DELIVERING  # as the live contours left it
    output = shadow.output
    with bench.database.transaction() as session:
        row = session.get_one(JobRow, job)
        with pytest.raises(ValueError, match="never sent"):
            add_delivery(session, row, "other", output, START)
        with pytest.raises(ValueError, match="never sent"):
            session.scalars(select(DeliveryRow)).one().output = output


def test_it_begins_only_after_the_live_job_and_when_nothing_waits(bench, runner_of, make_series):
    runner = runner_of(SLEEPS)
    job = bench.add(make_series("p1"))
    add_shadow(bench.database, job, bench.settings.route[0].shadow)
    runner.tend()
    assert runner.running is None  # the live job waits
    bench.work()
    other = bench.add(make_series("p2"))
    runner_of(SLEEPS).tend()
    assert shadow_of(bench.database, job).state == ShadowState.WAITING  # another patient waits
    bench.work()
    with bench.database.transaction() as session:
        series = session.get_one(SeriesRow, session.get_one(JobRow, other).series_id)
        series.state = "RECEIVING"
    runner_of(SLEEPS).tend()
    assert shadow_of(bench.database, job).state == ShadowState.WAITING  # images arrive
    with bench.database.transaction() as session:
        session.get_one(SeriesRow, series.id).state = "COMPLETE"
    last = runner_of(SLEEPS)
    last.tend()
    assert shadow_of(bench.database, job).state == ShadowState.RUNNING


def test_it_gives_way_to_a_patient_at_once(bench, runner_of, make_series):
    """What a patient waits for is the end of a killed process: measured here, with one that would take ten minutes."""
    job = contoured(bench, make_series("p1"))
    runner = runner_of(SLEEPS)
    runner.tend()
    pid = runner.running
    assert is_alive(pid)
    began = time.monotonic()
    runner.give_way()
    assert time.monotonic() - began < 5.0
    assert not is_alive(pid)
    shadow = shadow_of(bench.database, job)
    assert (shadow.state, shadow.attempts) == (ShadowState.WAITING, 0)


def test_the_worker_ends_it_before_its_next_job(bench, make_series):
    """Through the worker itself: it rests, a shadow starts, a patient comes, and the shadow is gone when it begins."""
    first = contoured(bench, make_series("p1"))
    bench.worker.wake.set()
    bench.worker.rest()
    assert shadow_of(bench.database, first).state == ShadowState.RUNNING
    bench.add(make_series("p2"))
    seen = []
    real = bench.contour

    def contour(instances, predictor, order):
        seen.append(shadow_of(bench.database, first).state)
        return real(instances, predictor, order)

    bench.contour = contour
    assert bench.work().state == JobState.DELIVERING
    assert seen == [ShadowState.WAITING]


def test_it_gives_way_to_another_worker_of_its_host(bench, runner_of, make_series):
    job = contoured(bench, make_series("p1"))
    now = [0.0]
    runner = runner_of(SLEEPS, lambda: now[0])
    now[0] = 10.0
    runner.tend()
    assert runner.running is not None
    bench.add(make_series("p2"))  # which this worker could do, or another
    now[0] = 12.0
    runner.tend()
    assert runner.running is None
    assert shadow_of(bench.database, job).state == ShadowState.WAITING


def test_what_breaks_its_process_is_recorded_and_touches_no_job(bench, runner_of, make_series):
    job = contoured(bench, make_series("p1"))
    now = [0.0]
    runner = runner_of(CRASHES, lambda: now[0])
    for _ in range(bench.settings.worker.max_attempts):
        now[0] += 100.0
        run_to_end(runner)
    shadow = shadow_of(bench.database, job)
    assert shadow.state == ShadowState.FAILED
    assert "the process of the shadow died: it crashed (SIGSEGV)" in str(shadow.reason)
    with bench.database.reading() as session:
        assert session.get_one(JobRow, job).state == JobState.DELIVERING
        assert session.get_one(JobRow, job).reason is None


def test_what_takes_too_long_is_ended(bench, runner_of, make_series):
    job = contoured(bench, make_series("p1"))
    now = [10.0]
    runner = runner_of(SLEEPS, lambda: now[0])
    for _ in range(bench.settings.worker.max_attempts):
        runner.tend()
        now[0] += bench.settings.worker.time_limit_s + 1
        runner.tend()
        assert runner.running is None
        now[0] += 100.0
    assert shadow_of(bench.database, job).state == ShadowState.FAILED
    assert "longer than worker.time_limit_s" in str(shadow_of(bench.database, job).reason)


def test_what_cannot_be_tried_now_costs_no_attempt(bench, runner_of, make_series):
    job = contoured(bench, make_series("p1"))
    run_to_end(runner_of(LATER))
    shadow = shadow_of(bench.database, job)
    assert (shadow.state, shadow.attempts) == (ShadowState.WAITING, 0)


def test_a_shadow_whose_model_is_damaged_fails_with_its_reason(bench, make_series):
    job = contoured(bench, make_series("p1"))
    weights = Path(bench.settings.route[0].shadow) / "weights.safetensors"
    weights.chmod(0o600)
    with weights.open("r+b") as file:
        file.seek(200)
        file.write(b"\x00\xff" * 20)
    contour_here(bench)
    shadow = shadow_of(bench.database, job)
    assert shadow.state == ShadowState.FAILED
    assert "weights" in str(shadow.reason)


def test_a_model_that_is_not_here_is_left_to_other_hosts(bench, runner_of, make_series):
    job = bench.add(make_series("p1"))
    add_shadow(bench.database, job, "nowhere")
    bench.work()
    runner = runner_of(SLEEPS)
    runner.tend()
    assert runner.running is None
    assert shadow_of(bench.database, job).state == ShadowState.WAITING


def test_a_worker_that_is_gone_leaves_its_shadow_to_the_next(bench, runner_of, make_series):
    """A process that does not run any more holds it; whoever looks next takes it, with a higher token."""
    job = contoured(bench, make_series("p1"))
    gone = ShadowRunner(bench.settings, "gone", bench.database, "", lambda: [""], command=SLEEPS)
    gone.tend()
    token = shadow_of(bench.database, job).claims
    runner_of(SLEEPS).tend()
    shadow = shadow_of(bench.database, job)
    assert (shadow.state, shadow.worker, shadow.claims) == (ShadowState.RUNNING, "bench", token + 1)
    gone.give_way()  # too late: it is not its own any more
    assert shadow_of(bench.database, job).worker == "bench"
    assert shadow_of(bench.database, job).state == ShadowState.RUNNING


def test_images_that_are_gone_drop_it(bench, make_series):
    job = contoured(bench, make_series("p1"))
    for path in (bench.root / "incoming").rglob("*.dcm"):
        path.unlink()
    contour_here(bench)
    shadow = shadow_of(bench.database, job)
    assert shadow.state == ShadowState.DROPPED
    assert str(shadow.reason)
    assert Queue(bench.database).fetch_job("bench", 60) is None
