"""A destination gets the products that it asks for, each once; the page has a structure set to show in any case."""

from __future__ import annotations

import sys

import pydicom
import pytest
from pydicom.uid import RTStructureSetStorage, SegmentationStorage
from sqlalchemy import select

from contourd.constancy.replay import Replayer
from contourd.observe.overview import read_job
from contourd.observe.report import read_report
from contourd.settings import load_settings
from contourd.store.contourings import read_contoured
from contourd.store.states import JobState
from contourd.store.tables import DeliveryRow, JobRow
from tests.bundles import bundle_of_version
from tests.contoured import activate, close_bench, open_bench
from tests.interop.node import write_configuration

OTHERS = """
[[destination]]
name = "both"
ae_title = "BOTH"
host = "127.0.0.1"
port = 105
products = ["rtstruct", "seg"]

[[destination]]
name = "viewer"
ae_title = "VIEWER"
host = "127.0.0.1"
port = 106
products = ["seg"]
"""


@pytest.fixture
def bench(tmp_path, fit_bundle):
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)}, OTHERS)
    bench = open_bench(load_settings(configuration))
    activate(bench, bundle_of_version(fit_bundle, tmp_path / "first", "1"))
    yield bench
    close_bench(bench)


def deliveries(bench):
    with bench.database.reading() as session:
        rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)).all()
        return {(row.destination, row.product): row.output for row in rows}


def sop_class(bench, path):
    return pydicom.dcmread(bench.root / path).SOPClassUID


def test_each_destination_gets_its_products_and_alike_ones_are_one_file(bench, make_series):
    bench.add(make_series("p1"), "pacs,both,viewer")
    assert bench.work().state == JobState.DELIVERING
    sent = deliveries(bench)
    assert sent.keys() == {("pacs", "rtstruct"), ("both", "rtstruct"), ("both", "seg"), ("viewer", "seg")}
    assert sent["pacs", "rtstruct"] == sent["both", "rtstruct"] != sent["both", "seg"] == sent["viewer", "seg"]
    assert sop_class(bench, sent["pacs", "rtstruct"]) == RTStructureSetStorage
    assert sop_class(bench, sent["viewer", "seg"]) == SegmentationStorage
    (line,) = read_report(bench.database).jobs
    assert [d.to for d in line.deliveries] == ["pacs", "both", "both (seg)", "viewer (seg)"]


def test_where_a_segmentation_goes_alone_the_page_has_its_structure_set(bench, make_series):
    job = bench.add(make_series("p1"), "viewer")
    assert bench.work().state == JobState.DELIVERING
    assert deliveries(bench).keys() == {("viewer", "seg")}
    assert sop_class(bench, read_job(bench.database, job).output) == RTStructureSetStorage


def test_a_replay_gives_the_same_bytes_of_both(bench, make_series):
    job = bench.add(make_series("p1"), "both")
    bench.work()
    replay = Replayer(bench.database, bench.settings).replay(job)
    assert [output.same for output in replay.outputs] == [True, True]
    assert replay.changed == replay.today == ()


def test_a_further_product_of_what_was_sent_is_made_and_sent(bench, make_series):
    job = bench.add(make_series("p1"), "pacs")
    bench.work()
    before = deliveries(bench)
    bench.operations.resend(job, "viewer", {d.name: d.identities for d in bench.settings.destination})
    assert bench.work().state == JobState.DELIVERING
    after = deliveries(bench)
    assert after.keys() == {("pacs", "rtstruct"), ("viewer", "seg")}
    assert after["pacs", "rtstruct"] == before["pacs", "rtstruct"]
    first, second = (one.sha256 for one in read_contoured(bench.database, job).contouring.outputs)
    assert first != second


def test_a_product_that_a_known_destination_is_to_get_now_is_made_even_after_a_hold(bench, make_series, monkeypatch):
    """Its structure set was sent: what is there is not all, however often the job is released."""
    job = bench.add(make_series("p1"), "both")
    with bench.database.transaction() as session:
        session.get_one(JobRow, job)
    bench.work()
    with bench.database.transaction() as session:
        session.delete(session.scalars(select(DeliveryRow).where(DeliveryRow.product == "seg")).one())
    bench.operations.resend(job, "both", {d.name: d.identities for d in bench.settings.destination})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "highdicom.seg", None)
        held = bench.work()
    assert (held.state, held.reason.code.value) == (JobState.HELD, "segmentation_not_installed")
    bench.operations.retry(job)
    assert bench.work().state == JobState.DELIVERING
    assert deliveries(bench).keys() == {("both", "rtstruct"), ("both", "seg")}


def test_a_segmentation_alone_is_sent_again(bench, make_series):
    job = bench.add(make_series("p1"), "viewer")
    bench.work()
    bench.operations.resend(job, "viewer", {d.name: d.identities for d in bench.settings.destination})
    assert deliveries(bench).keys() == {("viewer", "seg")}
    with bench.database.reading() as session:
        assert session.get_one(JobRow, job).state == JobState.DELIVERING


def test_products_are_named_once_and_known(tmp_path):
    for products in ('["seg", "seg"]', "[]", '["sr"]'):
        text = OTHERS.replace('["seg"]', products)
        configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)}, text)
        with pytest.raises(Exception, match="products"):
            load_settings(configuration)
