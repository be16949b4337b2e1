"""A job of several models, on a worker: ordered, contoured, kept, replayed; and what becomes of it when one fails."""

from __future__ import annotations

import json
import shutil

import pydicom
import pytest

from contourd.constancy.replay import ReplayBasis, Replayer
from contourd.errors import DeviceError, DeviceUnavailable, InvalidTransition
from contourd.model.model_names import names_of_text
from contourd.models.orders import JobOrder, OrderBook
from contourd.node import worker_models
from contourd.node.fitting_orders import FittingOrders
from contourd.node.order_keeper import OrderKeeper
from contourd.node.worker_models import Patience
from contourd.observe.report import read_report
from contourd.observe.status import to_json
from contourd.reasons.catalogue import HoldReason
from contourd.settings import Route, load_settings
from contourd.store.contourings import read_contoured
from contourd.store.queue import Queue
from contourd.store.states import JobState
from contourd.store.tables import JobRow
from tests.bundles import brighter_bundle, damage, make_bright_bundle
from tests.contoured import activate, close_bench, open_bench
from tests.interop.node import write_configuration

BOTH = '["bright", "glands"]'
OTHER = '[[destination]]\nname = "other"\nae_title = "O"\nhost = "127.0.0.1"\nport = 105\ndecimals = 2\n'


@pytest.fixture(scope="module")
def glands_bundle(tmp_path_factory):
    """Make a model of other organs, and one that the bright one draws."""
    folder = tmp_path_factory.mktemp("glands")
    return make_bright_bundle(folder / "glands", ("Thyroid", "Brain"), "glands")


def configured(folder):
    """Write the configuration of a node whose route has both models."""
    configuration = write_configuration(folder, 11112, "bright", {"pacs": ("PACS", 104)}, OTHER)
    configuration.write_text(configuration.read_text().replace('model = "bright"', f"model = {BOTH}", 1))
    return load_settings(configuration)


@pytest.fixture(scope="module")
def activated(tmp_path_factory, fit_bundle, glands_bundle):
    """Make the spool of a node in which both are in use: an activation tries a model, which takes its time."""
    bench = open_bench(configured(tmp_path_factory.mktemp("activated")))
    activate(bench, fit_bundle)
    activate(bench, glands_bundle)
    close_bench(bench)
    return bench.root


@pytest.fixture
def bench(tmp_path, activated):
    settings = configured(tmp_path / "node")
    shutil.copytree(activated, settings.spool.root, dirs_exist_ok=True)
    bench = open_bench(settings)
    yield bench
    close_bench(bench)


@pytest.fixture
def job(bench, make_series):
    return bench.add(make_series("p1"))


def ordered(bench) -> None:
    OrderKeeper(bench.database, bench.settings).order_jobs()


def send_partial(bench, job) -> None:
    with bench.database.transaction() as session:
        session.get_one(JobRow, job).partial = "send"


def row(bench, job) -> JobRow:
    with bench.database.reading() as session:
        return session.get_one(JobRow, job)


def structure_set(bench, job):
    return pydicom.dcmread(bench.root / "outgoing" / f"{job}-c{row(bench, job).claims}.dcm")


def made_by(dataset) -> dict[str, str]:
    return {roi.ROIName: roi.ROIGenerationDescription.split()[1] for roi in dataset.StructureSetROISequence}


def stored(bench, name):
    return next(bench.root.glob(f"models/{name}-*/weights.safetensors"))


def test_two_models_draw_one_structure_set_and_the_same_bytes_again(bench, job):
    ordered(bench)
    order = JobOrder.read(row(bench, job).contouring_order)
    assert [(one.asked, one.identity.name) for one in order.models] == [("bright", "bright"), ("glands", "glands")]
    assert order.text() == row(bench, job).contouring_order
    assert bench.work().state == JobState.DELIVERING
    assert made_by(structure_set(bench, job)) == {"Brain": "bright", "Thyroid": "glands"}
    status = json.loads(to_json(read_report(bench.database), bench.settings))
    (told,) = status["jobs"]
    assert told["model"] == BOTH
    assert told["contoured_with"]["name"] == "bright"
    assert [(m["asked"], m["drew"], m["organs"]) for m in told["models"]] == [
        ("bright", True, ["Brain", "SpinalCanal"]),
        ("glands", True, ["Thyroid"]),
    ]
    assert [(m["name"], m["routes"]) for m in status["models"]] == [("bright", [1]), ("glands", [1])]
    replay = Replayer(bench.database, bench.settings).replay(job)
    assert (replay.impossible, replay.same, replay.changed, replay.today) == ("", True, (), ())
    assert Replayer(bench.database, bench.settings).replay(job, ReplayBasis.TODAY).same


def test_another_version_of_one_of_them_is_for_what_waits_and_not_for_what_was_made(
    bench, job, make_series, fit_bundle, tmp_path
):
    ordered(bench)
    bench.work()
    second = bench.add(make_series("p2"))
    ordered(bench)
    activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    assert row(bench, second).contouring_order == ""
    replay = Replayer(bench.database, bench.settings).replay(job)
    assert replay.same
    assert [one.what for one in replay.today] == ["model"]
    profiles = {d.name: d.identities for d in bench.settings.destination}
    bench.operations.resend(job, "other", profiles)
    ordered(bench)
    assert bench.work().id == job
    assert [use.identity.version for use in read_contoured(bench.database, job).contouring.models] == ["1", "1"]


def test_a_damaged_one_holds_the_job(bench, make_series):
    bench.add(make_series("p1"))
    damage(stored(bench, "glands"))
    held = bench.work()
    assert held.state == JobState.HELD
    assert "contourd models rollback glands" in str(held.reason)


def test_or_it_is_sent_with_what_is_missing_named_and_so_again(bench, job):
    send_partial(bench, job)
    ordered(bench)
    damage(stored(bench, "glands"))
    order = row(bench, job).contouring_order
    fitting = FittingOrders(bench.settings, bench.database, None, (), lambda: 0.0)
    fitting.look("bench")
    assert order in fitting.fit  # it is here, and damaged: no other worker is waited for
    assert bench.work().state == JobState.DELIVERING
    dataset = structure_set(bench, job)
    assert made_by(dataset) == {"Brain": "bright"}
    assert "incomplete: Thyroid missing, for glands 1 did not draw" in dataset.StructureSetDescription
    assert str(stored(bench, "glands")) not in dataset.StructureSetDescription  # folders of the site stay there
    told = row(bench, job).remarks.lines()[0]
    assert told.startswith("incomplete: Thyroid missing, for glands 1 did not draw (")
    (status,) = json.loads(to_json(read_report(bench.database), bench.settings))["jobs"]
    assert [(m["drew"], m["missing"]) for m in status["models"]] == [(True, []), (False, ["Thyroid"])]
    assert status["models"][1]["reason_code"] == status["models"][1]["reason_code"].lower() != ""
    assert Replayer(bench.database, bench.settings).replay(job).same


def test_a_further_form_of_what_was_sent_without_one_is_without_it_too(bench, job, glands_bundle):
    send_partial(bench, job)
    damage(stored(bench, "glands"))
    bench.work()
    weights = stored(bench, "glands")
    weights.chmod(0o600)
    weights.write_bytes((glands_bundle / "weights.safetensors").read_bytes())
    profiles = {d.name: d.identities for d in bench.settings.destination}
    bench.operations.resend(job, "other", profiles)
    ordered(bench)
    assert bench.work().state == JobState.DELIVERING
    assert [use.drew for use in read_contoured(bench.database, job).contouring.models] == [True, False]
    again = bench.operations.recontour(job, "bright", "glands")  # the whole of it is a job of its own
    ordered(bench)
    assert bench.work().id == again
    assert made_by(structure_set(bench, again)) == {"Brain": "bright", "Thyroid": "glands"}
    with pytest.raises(InvalidTransition, match="is the model of job"):
        bench.operations.recontour(again, *names_of_text(row(bench, again).model))


def test_one_that_is_not_there_is_ordered_as_missing(bench, job):
    with bench.database.transaction() as session:
        session.get_one(JobRow, job).model = '["bright", "unheard_of"]'
    send_partial(bench, job)
    ordered(bench)
    (_, missing) = JobOrder.read(row(bench, job).contouring_order).models
    assert (missing.asked, missing.identity, missing.failed.code) == ("unheard_of", None, HoldReason.MODEL_NOT_THERE)
    assert bench.work().state == JobState.DELIVERING
    assert row(bench, job).remarks.lines()[0].startswith("incomplete: its organs missing, for unheard_of did not draw")
    assert Replayer(bench.database, bench.settings).replay(job).same


def test_a_worker_that_lacks_one_of_them_does_not_take_the_job(bench, job):
    ordered(bench)
    away = stored(bench, "glands").parent
    away.rename(bench.root / "away")
    fitting = FittingOrders(bench.settings, bench.database, None, (), lambda: 0.0)
    fitting.look("bench")
    assert row(bench, job).contouring_order not in fitting.fit
    assert row(bench, job).state == JobState.HELD  # of one host: no other can
    assert "glands" in str(row(bench, job).reason)


def test_an_order_of_one_model_is_written_as_before_there_could_be_several(bench):
    order = json.loads(OrderBook(bench.database, bench.settings).order_of("bright", ["pacs"]))
    assert order.keys() == {
        "asked", "colours", "contourd", "model", "plausibility", "profiles", "second_reader", "structures"
    }  # fmt: skip
    assert (order["asked"], order["model"][:2]) == ("bright", ["bright", "1"])


def test_for_a_device_a_model_is_waited_and_then_it_is_left_out():
    busy = DeviceUnavailable(HoldReason.DEVICE_OUT_OF_MEMORY, device="cuda:0", said="out of memory")
    lost = DeviceUnavailable(HoldReason.DEVICE_FAILED, device="cuda:0", said="assert")
    waiting, spent = Patience(lambda: 100.0, 3600.0, None), Patience(lambda: 3700.0, 3600.0, None)
    assert waiting.device_error(busy) is busy
    assert spent.device_error(lost) is lost  # another process takes its place first
    given_up = spent.device_error(busy)
    assert (type(given_up), given_up.reason.code) == (DeviceError, HoldReason.DEVICE_NEVER_FREE)
    assert isinstance(waiting.memory_error(MemoryError()), DeviceUnavailable)
    own = MemoryError()
    assert Patience(lambda: 0.0, 3600.0, False).memory_error(own) is own
    last = Patience(lambda: 0.0, 3600.0, True).memory_error(own)
    assert (type(last), last.reason.code) == (DeviceError, HoldReason.WORKER_OUT_OF_MEMORY)


def test_a_busy_device_has_the_job_wait_and_not_sent_without(bench, job, monkeypatch):
    send_partial(bench, job)
    busy = DeviceUnavailable(HoldReason.DEVICE_OUT_OF_MEMORY, device="cuda:0", said="out of memory")
    real = worker_models.make_predictor

    def load(bundle, *where):
        if bundle.name == "glands":
            raise busy
        return real(bundle, *where)

    monkeypatch.setattr(worker_models, "make_predictor", load)
    waiting = bench.work()
    assert (waiting.state, waiting.reason.code) == (JobState.QUEUED, HoldReason.WAITS_FOR_DEVICE)
    monkeypatch.setattr(Queue, "waited_for_device_s", lambda _, job: 3601.0)
    assert bench.work().state == JobState.DELIVERING
    assert "Thyroid missing" in row(bench, job).remarks.lines()[0]


def test_a_route_names_each_model_once_and_keeps_one_text():
    assert Route(model="hn7", destinations=("pacs",)).asked == "hn7"
    several = Route.model_validate({"model": ["hn7", "glands"], "destinations": ["pacs"], "partial": "send"})
    assert (several.models, several.asked) == (("hn7", "glands"), '["hn7", "glands"]')
    for wrong in (["hn7", "hn7"], [], [""], ["a" * 200, "b" * 200], [f"m{n}" for n in range(9)]):
        with pytest.raises(ValueError, match="model"):
            Route.model_validate({"model": wrong, "destinations": ["pacs"]})
    with pytest.raises(ValueError, match="partial"):
        Route.model_validate({"model": "hn7", "destinations": ["pacs"], "partial": "maybe"})
