"""The worker takes up another model between two jobs, and never contours with one that nobody chose."""

from __future__ import annotations

import json

import pytest

from contourd.models import activation
from contourd.observe.report import read_report
from contourd.observe.status import to_json
from contourd.settings import load_settings
from contourd.store.contourings import read_contoured
from contourd.store.states import JobState
from tests.bundles import brighter_bundle, bundle_of_version, damage
from tests.contoured import activate, close_bench, open_bench
from tests.interop.node import write_configuration

OTHER = '[[destination]]\nname = "other"\nae_title = "O"\nhost = "127.0.0.1"\nport = 105\ndecimals = 2\n'


@pytest.fixture
def bench(tmp_path, fit_bundle):
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)}, OTHER)
    bench = open_bench(load_settings(configuration))
    activate(bench, bundle_of_version(fit_bundle, tmp_path / "first", "1"))
    yield bench
    close_bench(bench)


def made(bench, job):
    return read_contoured(bench.database, job).contouring


def test_the_next_job_gets_what_is_activated_now(bench, make_series, fit_bundle, tmp_path):
    first, second = bench.add(make_series("p1")), bench.add(make_series("p2"))
    bench.worker.warm_up()
    assert bench.work().state == JobState.DELIVERING
    newer = activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    assert bench.work().state == JobState.DELIVERING
    assert [made(bench, job).model.version for job in (first, second)] == ["1", "2"]
    assert made(bench, second).model == newer
    status = json.loads(to_json(read_report(bench.database), bench.settings))
    assert {job["id"]: job["contoured_with"]["version"] for job in status["jobs"]} == {first: "1", second: "2"}
    assert [(m["version"], m["origin"], m["by"]) for m in status["models"]] == [("2", "stored", "marie")]


def test_a_model_that_is_activated_while_nothing_is_to_do_is_loaded_at_once(bench, fit_bundle, tmp_path):
    bench.worker.stopping.set()  # so that it does not wait
    bench.worker.warm_up()
    bench.worker.rest()
    loaded = bench.worker.predictors["bright"]
    activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    bench.worker.rest()
    assert (loaded.bundle.version, bench.worker.predictors["bright"].bundle.version) == ("1", "2")


def test_a_model_that_turns_out_bad_holds_the_job_until_it_is_taken_back(bench, make_series, fit_bundle, tmp_path):
    job = bench.add(make_series("p1"))
    newer = activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    damage(bench.root / "models" / newer.stored_name / "weights.safetensors")
    held = bench.work()
    assert held.state == JobState.HELD
    assert "go back by `contourd models rollback bright`" in str(held.reason)
    assert made(bench, job) is None
    activation.roll_back(bench.database, bench.settings, "bright", "marie", "")
    bench.operations.retry(job)
    assert bench.work().state == JobState.DELIVERING
    assert made(bench, job).model.version == "1"


def test_a_further_form_of_what_was_sent_is_of_the_same_model(bench, make_series, fit_bundle, tmp_path):
    job = bench.add(make_series("p1"))
    bench.work()
    sent = made(bench, job)
    activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    profiles = {d.name: d.identities for d in bench.settings.destination}
    bench.operations.resend(job, "other", profiles)
    assert bench.work().state == JobState.DELIVERING
    again = made(bench, job)
    assert again.model == sent.model
    assert again.outputs[0].sha256 == sent.outputs[0].sha256
    assert [len(one.outputs) for one in (sent, again)] == [1, 2]


def test_where_that_model_is_gone_the_job_is_held(bench, make_series, fit_bundle, tmp_path):
    job = bench.add(make_series("p1"))
    bench.work()
    first = made(bench, job).model
    activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    damage(bench.root / "models" / first.stored_name / "weights.safetensors")
    profiles = {d.name: d.identities for d in bench.settings.destination}
    bench.operations.resend(job, "other", profiles)
    held = bench.work()
    assert held.state == JobState.HELD
    assert f"was contoured with {first.text()}, which is not here any more" in str(held.reason)


def test_a_series_is_contoured_again_with_what_its_name_stands_for_now(bench, make_series, fit_bundle, tmp_path):
    job = bench.add(make_series("p1"))
    bench.work()
    newer = activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    again = bench.operations.recontour(job, "bright")
    assert bench.work().model == newer.stored_name
    assert made(bench, again).model == newer
