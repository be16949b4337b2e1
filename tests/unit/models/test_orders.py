"""The order of a job: made by the node that leads, kept with the job, and contoured by whoever can do just that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from contourd.contour.contouring import contour_series
from contourd.errors import DatasetError
from contourd.models.orders import JobOrder, OrderBook, order_digest, version_of
from contourd.node import fitting_orders
from contourd.node.fitting_orders import AGAIN_S, FittingOrders
from contourd.node.order_keeper import OrderKeeper
from contourd.reasons.catalogue import HoldReason
from contourd.settings import PlausibilitySettings, load_settings
from contourd.store.queue import Queue
from contourd.store.states import JobState
from contourd.store.tables import JobRow
from tests.bundles import brighter_bundle
from tests.contoured import activate, close_bench, open_bench
from tests.interop.node import write_configuration

OTHER = '[[destination]]\nname = "tps"\nae_title = "O"\nhost = "127.0.0.1"\nport = 105\nprofile = "eclipse"\n'


@pytest.fixture
def bench(tmp_path, fit_bundle):
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)}, OTHER)
    bench = open_bench(load_settings(configuration))
    activate(bench, fit_bundle)
    yield bench
    close_bench(bench)


@pytest.fixture
def keeper(bench):
    return OrderKeeper(bench.database, bench.settings)


def order_of(bench, job: int) -> str:
    with bench.database.reading() as session:
        return session.get_one(JobRow, job).contouring_order


def test_an_order_is_read_as_it_was_written(bench):
    text = OrderBook(bench.database, bench.settings).order_of("bright", ["pacs", "tps"])
    order = JobOrder.read(text)
    assert order.text() == text
    assert (order.asked, order.model.name, order.contourd) == ("bright", "bright", version_of(text))
    assert [profile.decimals for profile in order.profiles.values()] == [3, 2]
    with pytest.raises(DatasetError, match="not one that this version of contourd knows"):
        JobOrder.read(json.dumps({**json.loads(text), "profiles": {"pacs": {"unknown": 1}}}))


def test_a_job_is_contoured_as_it_was_ordered_and_not_as_the_worker_is_set(bench, make_series):
    job = bench.add(make_series("p1"), "pacs,tps")
    ordered = bench.settings.model_copy(update={"plausibility": PlausibilitySettings(limit_sd=7.5)})
    OrderKeeper(bench.database, ordered).order_jobs()
    done = []

    def contour(instances, predictor, order):
        done.append(order)
        return contour_series(instances, predictor, order)

    bench.contour = contour
    assert bench.work().state == JobState.DELIVERING
    (order,) = done
    assert (order.plausibility.limit_sd, [profile.decimals for profile in order.profiles]) == (7.5, [3, 2])
    assert bench.settings.plausibility.limit_sd == 4.5
    assert order_of(bench, job)


def test_what_a_person_releases_and_what_another_model_is_activated_for_is_ordered_anew(
    bench, keeper, make_series, fit_bundle, tmp_path
):
    job = bench.add(make_series("p1"))
    keeper.order_jobs()
    before = order_of(bench, job)
    activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    assert order_of(bench, job) == ""
    keeper.order_jobs()
    after = order_of(bench, job)
    assert JobOrder.read(before).model != JobOrder.read(after).model
    bench.operations.hold(job, "to be looked at")
    bench.operations.retry(job)
    assert order_of(bench, job) == ""


def test_a_job_whose_model_cannot_be_found_is_held(bench, keeper, make_series):
    job = bench.add(make_series("p1"))
    with bench.database.transaction() as session:
        session.get_one(JobRow, job).model = "unheard_of"
    keeper.order_jobs()
    with bench.database.reading() as session:
        row = session.get_one(JobRow, job)
        assert (row.state, row.reason.code) == (JobState.HELD, HoldReason.MODEL_NOT_THERE)


def declined(bench, text: str) -> HoldReason | None:
    fitting = FittingOrders(bench.settings, None, (), lambda: 0.0)
    fitting.judge([text])
    assert (order_digest(text) in fitting.declined) != (text in fitting.fit)
    return fitting.declined[order_digest(text)].code if fitting.declined else None


def test_a_worker_leaves_to_others_what_it_cannot_do_as_it_was_ordered(bench, monkeypatch):
    order = JobOrder.read(OrderBook(bench.database, bench.settings).order_of("bright", ["pacs"]))
    assert declined(bench, order.text()) is None
    assert declined(bench, replace(order, contourd="0.0").text()) is HoldReason.ORDER_OF_OTHER_VERSION
    assert declined(bench, replace(order, structures="0" * 64).text()) is HoldReason.ORDER_OF_OTHER_STRUCTURES
    other = replace(order.model, sha256="0" * 64)
    assert declined(bench, replace(order, model=other).text()) is HoldReason.ORDER_OF_OTHER_MODEL
    monkeypatch.setattr(fitting_orders, "second_reader_loads", lambda: False)
    assert declined(bench, replace(order, second_reader=True).text()) is HoldReason.ORDER_NEEDS_SECOND_READER
    assert declined(bench, "{}") is HoldReason.ORDER_OF_OTHER_VERSION


def test_it_takes_the_job_once_the_model_is_there(bench):
    seconds = [0.0]
    order = JobOrder.read(OrderBook(bench.database, bench.settings).order_of("bright", ["pacs"]))
    stored = next((bench.root / "models").iterdir())
    away = stored.rename(bench.root / "away")
    fitting = FittingOrders(bench.settings, None, (), lambda: seconds[0])
    assert fitting.judge([order.text()])
    away.rename(stored)
    assert not fitting.judge([])
    seconds[0] = AGAIN_S
    assert fitting.judge([])
    assert (fitting.fit, fitting.declined) == ({order.text()}, {})


def test_only_a_job_that_fits_is_fetched(bench, keeper, make_series):
    first, second = bench.add(make_series("p1")), bench.add(make_series("p2"))
    queue = Queue(bench.database)
    queue.order_job(first, "an order that nobody here knows")
    keeper.order_jobs()
    assert sorted(queue.waiting_orders()) == sorted({order_of(bench, first), order_of(bench, second)})
    assert queue.waiting_orders([order_of(bench, second)]) == [order_of(bench, first)]
    assert queue.fetch_job("w", 60, orders=[]) is None
    assert queue.fetch_job("w", 60, orders=[order_of(bench, second)]).id == second


def test_what_was_ordered_of_a_version_that_nobody_has_is_ordered_anew(bench, keeper, make_series):
    job = bench.add(make_series("p1"))
    old = replace(JobOrder.read(OrderBook(bench.database, bench.settings).order_of("bright", ["pacs"])), contourd="0.0")
    Queue(bench.database).order_job(job, old.text())
    keeper.renew_orders()
    keeper.order_jobs()
    assert order_of(bench, job) == replace(old, contourd=version_of(order_of(bench, job))).text()
    assert version_of(order_of(bench, job)) != "0.0"
