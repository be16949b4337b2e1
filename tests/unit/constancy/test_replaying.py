"""The same bytes again, or what has changed."""

from __future__ import annotations

import json
import shutil
from io import BytesIO

import pydicom
import pytest
from sqlalchemy import delete, select
from typer.testing import CliRunner

from contourd.cli import app
from contourd.constancy.replay import ReplayBasis, Replayer, compare_organs
from contourd.models import activation
from contourd.models.records import Evidence
from contourd.settings import load_settings
from contourd.store.tables import AuditRow, InstanceRow, SeriesRow
from tests.bundles import brighter_bundle, bundle_of_version
from tests.contoured import close_bench, open_bench
from tests.interop.node import write_configuration
from tests.phantom import read_series, structure_set, write_series
from tests.queueing import START


@pytest.fixture
def bench(tmp_path, fit_bundle, make_series):
    """A job that was contoured with version 1, in the spool's store."""
    configuration = write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)})
    bench = open_bench(load_settings(configuration))
    activate(bench, bundle_of_version(fit_bundle, tmp_path / "first", "1"))
    bench.add(make_series("p1"))
    bench.work()
    yield bench
    close_bench(bench)


def activate(bench, folder):
    return activation.activate(
        bench.database, bench.settings, str(folder), "marie", "trained here", Evidence(without="a test")
    ).activation.model


def replay(bench, basis=ReplayBasis.RECORDED, **changes):
    settings = bench.settings.model_copy(update=changes)
    return Replayer(bench.database, settings).replay(1, basis)


def command(bench, *words):
    configuration = bench.root.parent / "contourd.toml"
    return CliRunner().invoke(app, ["replay", *words, "--config", str(configuration)])


def changed(told):
    return [one.what for one in told.changed]


def test_the_same_bytes(bench, tmp_path):
    ran = command(bench, "1", "--output", str(tmp_path / "again.dcm"))
    assert (ran.exit_code, ran.output.splitlines()[1]) == (0, "the same bytes")
    assert (tmp_path / "again.dcm").read_bytes() == (bench.root / "outgoing" / "1-c1.dcm").read_bytes()
    with bench.database.reading() as session:
        last = session.scalars(select(AuditRow).order_by(AuditRow.id.desc())).first()
    assert (last.action, last.subject, last.detail) == ("replay", "job 1", "the same bytes")


def test_a_job_of_the_version_before_gives_the_same_bytes(bench):
    """Its row was written by the version that kept the runtime and the libraries in words."""
    bench.database.downgrade("0005")
    bench.database.upgrade()
    told = replay(bench)
    assert (told.same, told.changed) == (True, ())


def test_another_model_does_not_change_what_was_made(bench, fit_bundle, tmp_path):
    activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    told = replay(bench)
    assert (told.same, changed(told)) == (True, [])
    assert [one.what for one in told.today] == ["model"]
    ran = command(bench, "1", "--today", "--json")
    answer = json.loads(ran.output)
    assert (ran.exit_code, answer["verdict"]) == (1, "other bytes; what has changed: model")
    (organ,) = answer["outputs"][0]["organs"]
    assert organ["name"] == "Brain"
    assert 0.8 < organ["dice"] < 1  # a smaller ball at the same place
    assert organ["shift_mm"] < 0.5
    assert (bench.root / "outgoing").joinpath("1-c1.dcm").exists()


def test_a_model_that_is_gone_is_named(bench, fit_bundle, tmp_path):
    newer = activate(bench, brighter_bundle(fit_bundle, tmp_path / "second"))
    (gone,) = (folder for folder in (bench.root / "models").iterdir() if folder.name != newer.stored_name)
    shutil.rmtree(gone)
    told = replay(bench)
    assert (told.same, changed(told)) == (False, ["model"])
    assert told.changed[0].now == newer.text()


def test_settings_of_today_are_told(bench):
    other = bench.settings.plausibility.model_copy(update={"volume": "withhold"})
    told = replay(bench, plausibility=other)
    assert told.same
    assert [(one.what, one.before, one.now) for one in told.today if not one.what.endswith("hash")] == [
        ("settings.plausibility.volume", '"flag"', '"withhold"')
    ]
    assert not replay(bench, ReplayBasis.TODAY, plausibility=other).same  # its UID is another's


def test_what_is_not_in_the_spool_any_more(bench):
    output = bench.root / "outgoing" / "1-c1.dcm"
    content = output.read_bytes()
    output.write_bytes(content[:-2] + b"\1\1")
    told = replay(bench)
    assert told.same
    assert "has changed on the disk" in told.outputs[0].note
    output.unlink()
    assert "compared by the hash that was recorded" in replay(bench).outputs[0].note


def test_images_that_are_gone_or_more(bench, make_series):
    image = next(make_series("p2").iterdir())
    with bench.database.transaction() as session:
        bench.store(session, 1, image)
    assert "24 images were contoured, 25 are here" in replay(bench).impossible
    with bench.database.transaction() as session:
        session.execute(delete(InstanceRow))
        session.get_one(SeriesRow, 1).purged_at = START
    ran = command(bench, "1")
    assert ran.exit_code == 1
    assert "cannot be contoured again: retention removed the images on 2026-01-01" in ran.output


def test_a_job_that_was_never_contoured(bench, make_series):
    bench.add(make_series("p2"))
    for number, why in (("2", "it is not recorded how it was contoured: it is QUEUED"), ("9", "there is no job 9")):
        ran = command(bench, number)
        assert ran.exit_code != 0
        assert why in str(ran.exception)


def test_organs_are_compared_on_the_ct(tmp_path):
    """One column to the left is 1.75 mm; what only one of them has is not compared."""
    series = read_series(write_series(tmp_path / "ct"))
    before, now = structure_set(series), structure_set(series)
    moved = now.ROIContourSequence[0]
    for contour in moved.ContourSequence:
        x, *rest = contour.ContourData[::3], contour.ContourData[1::3], contour.ContourData[2::3]
        shifted = [float(value) + 1.75 for value in x]
        contour.ContourData = [value for point in zip(shifted, *rest, strict=True) for value in point]
    del now.StructureSetROISequence[1]
    first, second, third = compare_organs(content(before), content(now), series.grid)[:3]
    assert first.shift_mm == pytest.approx(1.75, abs=1e-6)
    assert 0.5 < first.dice < 1
    assert second.dice is None
    assert (third.dice, third.shift_mm) == (1.0, 0.0)


def content(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
