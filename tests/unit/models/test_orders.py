"""The order of a job: made by the node that leads, kept with the job, and contoured by whoever can do just that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from contourd.contour.contouring import contour_series
from contourd.errors import DatasetError, ModelError, StoreUnavailable
from contourd.model.model_use import ModelUse
from contourd.models.orders import JobOrder, OrderBook, order_digest, pinned_models, version_of
from contourd.node import fitting_orders
from contourd.node.fitting_orders import AGAIN_S, FittingOrders
from contourd.node.order_keeper import NOBODY_HOLDS_S, OrderKeeper
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import PlausibilitySettings, load_settings
from contourd.store.processes import Processes
from contourd.store.queue import Queue
from contourd.store.states import JobState, ProcessRole
from contourd.store.tables import JobRow
from tests.bundles import brighter_bundle
from tests.contoured import activate, close_bench, open_bench
from tests.databases import POSTGRESQL, queue_url
from tests.interop.node import write_configuration

OTHER = '[[destination]]\nname = "tps"\nae_title = "O"\nhost = "127.0.0.1"\nport = 105\nprofile = "eclipse"\n'


SEVERAL_HOSTS = pytest.mark.parametrize("engine", [POSTGRESQL], indirect=True)


@pytest.fixture
def bench(tmp_path, fit_bundle, engine):
    more = f'{OTHER}[database]\nurl = "{queue_url(tmp_path)}"\n' if engine == POSTGRESQL else OTHER
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)}, more)
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
    (model,) = order.models
    assert (model.asked, model.identity.name, order.contourd) == ("bright", "bright", version_of(text))
    assert [[one.decimals for one in profiles] for profiles in order.profiles.values()] == [[3], [2]]
    plain = json.loads(text)
    before = {name: profiles[0] for name, profiles in plain["profiles"].items()}  # of one product, as it was written
    assert JobOrder.read(json.dumps({**plain, "profiles": before})) == order
    with pytest.raises(DatasetError, match="not one that this version of contourd knows"):
        JobOrder.read(json.dumps({**plain, "profiles": {"pacs": {"unknown": 1}}}))


def test_models_that_an_earlier_version_kept_the_first_of_are_not_guessed():
    assert [one.asked for one in pinned_models(["a", "b"], ())] == ["a", "b"]
    with pytest.raises(ModelError) as raised:
        pinned_models(["a", "b"], [ModelUse("a")])
    assert raised.value.reason.code == HoldReason.MODEL_OF_JOB_GONE


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
    assert JobOrder.read(before).models != JobOrder.read(after).models
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


def fitting(bench, elapsed=lambda: 0.0, store=None) -> FittingOrders:
    return FittingOrders(bench.settings, bench.database, store, (), elapsed)


def own_order(bench) -> JobOrder:
    return JobOrder.read(OrderBook(bench.database, bench.settings).order_of("bright", ["pacs"]))


def queued(bench, job: int, text: str) -> None:
    """Have a job wait with that order alone."""
    with bench.database.transaction() as session:
        row = session.get_one(JobRow, job)
        row.contouring_order, row.state, row.reason = text, JobState.QUEUED, None


def state_of(bench, job: int) -> tuple[JobState, Reason | None]:
    with bench.database.reading() as session:
        row = session.get_one(JobRow, job)
        return JobState(row.state), row.reason


def of_other_hash(order: JobOrder) -> ModelUse:
    """Return an order's only model, with a hash that no model has."""
    (model,) = order.models
    return replace(model, identity=replace(model.identity, sha256="0" * 64))


def unfit_orders(order: JobOrder) -> dict[str, HoldReason]:
    """Return what a worker that lacks the second reader cannot do as it was ordered, with why."""
    return {
        replace(order, structures="0" * 64).text(): HoldReason.ORDER_OF_OTHER_STRUCTURES,
        replace(order, models=(of_other_hash(order),)).text(): HoldReason.ORDER_OF_OTHER_MODEL,
        replace(order, second_reader=True).text(): HoldReason.ORDER_NEEDS_SECOND_READER,
    }


@SEVERAL_HOSTS
def test_a_worker_leaves_to_others_what_it_cannot_do_as_it_was_ordered(bench, make_series, monkeypatch):
    monkeypatch.setattr(fitting_orders, "second_reader_loads", lambda: False)
    order, job = own_order(bench), bench.add(make_series("p1"))
    unfit = {
        **unfit_orders(order),
        replace(order, contourd="0.0").text(): HoldReason.ORDER_OF_OTHER_VERSION,
        "{}": HoldReason.ORDER_OF_OTHER_VERSION,
    }
    for text, code in unfit.items():
        queued(bench, job, text)
        orders = fitting(bench)
        orders.look("w1")
        assert orders.fit == frozenset()
        assert {digest: reason.code for digest, reason in orders.declined.items()} == {order_digest(text): code}
        assert state_of(bench, job) == (JobState.QUEUED, None)
    queued(bench, job, order.text())
    orders = fitting(bench)
    orders.look("w1")
    assert (orders.fit, orders.declined) == ({order.text()}, {})


@SEVERAL_HOSTS
def test_it_takes_the_job_once_the_model_is_there(bench, make_series):
    seconds = [0.0]
    order, job = own_order(bench), bench.add(make_series("p1"))
    queued(bench, job, order.text())
    stored = next((bench.root / "models").iterdir())
    away = stored.rename(bench.root / "away")
    processes = Processes(bench.database)
    processes.begin("w1", ProcessRole.WORKER)
    orders = fitting(bench, lambda: seconds[0])
    orders.look("w1")
    (running,) = processes.running()
    (reason,) = running.cannot.values()
    assert reason.code is HoldReason.ACTIVATED_MODEL_UNUSABLE
    assert str(stored) in str(reason)
    away.rename(stored)
    orders.look("w1")
    assert orders.fit == frozenset()
    seconds[0] = AGAIN_S
    orders.look("w1")
    assert (orders.fit, orders.declined) == ({order.text()}, {})
    assert [one.cannot for one in processes.running()] == [{}]


def damage(weights) -> None:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o600)
    weights.write_bytes(content)


def test_where_no_other_host_is_a_job_whose_model_is_damaged_is_held_and_goes_on_when_it_is_mended(
    bench, keeper, make_series
):
    jobs = [bench.add(make_series("p1")), bench.add(make_series("p2"))]
    keeper.order_jobs()
    weights = next((bench.root / "models").glob("*/weights.safetensors"))
    whole = weights.read_bytes()
    damage(weights)
    orders = fitting(bench)
    orders.look("w1")
    for job in jobs:
        state, reason = state_of(bench, job)
        assert (state, reason.code) == (JobState.HELD, HoldReason.ACTIVATED_MODEL_UNUSABLE)
        assert f"{weights} is damaged" in str(reason)
    assert (orders.fit, orders.declined) == (frozenset(), {})
    weights.write_bytes(whole)
    bench.operations.retry(jobs[0])
    keeper.order_jobs()
    orders.look("w1")  # at once, not after a minute
    assert orders.fit == {order_of(bench, jobs[0])}
    assert [state_of(bench, job)[0] for job in jobs] == [JobState.QUEUED, JobState.HELD]


def test_where_no_other_host_is_what_cannot_be_done_is_held_and_what_passes_by_itself_waits(
    bench, make_series, monkeypatch
):
    monkeypatch.setattr(fitting_orders, "second_reader_loads", lambda: False)
    order, job = own_order(bench), bench.add(make_series("p1"))
    for text, code in unfit_orders(order).items():
        queued(bench, job, text)
        fitting(bench).look("w1")
        state, reason = state_of(bench, job)
        assert (state, reason.code) == (JobState.HELD, code)
    queued(bench, job, replace(order, contourd="0.0").text())  # of before an upgrade: it is ordered anew
    fitting(bench).look("w1")
    assert state_of(bench, job) == (JobState.QUEUED, None)


def unanswered(*asked):  # noqa: ARG001
    raise StoreUnavailable("the object store is away")


class AwayStore:
    put = get = list = delete = unanswered


def test_a_job_whose_model_is_in_a_store_that_is_away_waits(bench, make_series):
    order, job = own_order(bench), bench.add(make_series("p1"))
    queued(bench, job, order.text())
    next((bench.root / "models").iterdir()).rename(bench.root / "away")
    orders = fitting(bench, store=AwayStore())
    orders.look("w1")
    (reason,) = orders.declined.values()
    assert (reason.code, str(reason)) == (HoldReason.WAITS_FOR_SPOOL, "waits: the object store is away")
    assert state_of(bench, job) == (JobState.QUEUED, None)


DAMAGED = Reason.of(HoldReason.MODEL_DAMAGED, path="/m/weights", sha256="1", expected="2")
ABSENT = Reason.of(HoldReason.MODEL_NOT_THERE, model="bright", file="model.json", folder="/m")


@SEVERAL_HOSTS
def test_a_job_that_every_worker_has_declined_for_a_while_is_held_with_what_each_says(bench, make_series):
    seconds = [0.0]
    keeper = OrderKeeper(bench.database, bench.settings, lambda: seconds[0])
    job = bench.add(make_series("p1"))
    keeper.order_jobs()
    digest, processes = order_digest(order_of(bench, job)), Processes(bench.database)

    def after(s: float) -> JobState:
        seconds[0] += s
        keeper.review_orders()
        return state_of(bench, job)[0]

    assert (after(0), after(NOBODY_HOLDS_S)) == (JobState.QUEUED, JobState.QUEUED)  # nobody has said so
    for name, reason in (("w1", DAMAGED), ("w2", ABSENT)):
        processes.begin(name, ProcessRole.WORKER)
        processes.decline(name, {digest: reason})
    assert (after(0), after(NOBODY_HOLDS_S - 1)) == (JobState.QUEUED, JobState.QUEUED)
    processes.begin("w3", ProcessRole.WORKER)  # one that has not looked yet
    assert (after(1), after(NOBODY_HOLDS_S)) == (JobState.QUEUED, JobState.QUEUED)
    processes.decline("w3", {digest: Reason.of(HoldReason.WAITS_FOR_SPOOL, why="the store is away")})
    assert (after(1), after(NOBODY_HOLDS_S)) == (JobState.QUEUED, JobState.QUEUED)
    processes.end("w3")
    assert (after(0), after(NOBODY_HOLDS_S)) == (JobState.QUEUED, JobState.HELD)
    reason = state_of(bench, job)[1]
    assert reason.code is HoldReason.ORDER_OF_NOBODY
    assert str(reason).startswith("no worker can contour the job as it was ordered: on ")
    assert str(ABSENT) in str(reason) or str(DAMAGED) in str(reason)


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
