"""Images that are read before their job is there, and what becomes of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.received_images import decoded_bytes, read_received
from contourd.dicom.reading.series import gate, read_volume
from contourd.intake.read_ahead import ReadAhead
from contourd.intake.waiting_images import arriving_images
from contourd.models import activation
from contourd.models.records import Evidence
from contourd.node import worker
from contourd.settings import load_settings
from contourd.store.states import JobState, SeriesState
from contourd.store.tables import JobRow, SeriesRow
from tests.contoured import close_bench, open_bench
from tests.interop.node import write_configuration
from tests.phantom import rewrite, write_series

LONG_S, SLICES = 1e9, 24


@pytest.fixture
def images(tmp_path: Path) -> dict[Path, str]:
    return {path: stored_sha256(path) for path in sorted(write_series(tmp_path / "ct").iterdir())}


def test_the_job_finds_the_images_as_it_would_have_read_them(images):
    ahead = ReadAhead()
    assert not ahead.follow(images, LONG_S)
    taken = ahead.take(images)
    assert list(taken) == list(images)
    assert all(decoded_bytes(instance) for instance in taken.values())
    once = read_received(images, taken)
    plain = read_received(images)
    assert once == plain
    assert np.array_equal(read_volume(gate(once)).hu, read_volume(gate(plain)).hu)
    assert ahead.take(images) == {}  # nothing stays


def test_slices_are_read_as_they_arrive_for_so_long_at_a_time(images):
    ticks = itertools.count()
    ahead = ReadAhead(elapsed=lambda: float(next(ticks)))
    paths = list(images)
    some = {path: images[path] for path in paths[:10]}
    assert ahead.follow(some, 4.0)  # a tick for each image, and one at the beginning
    assert len(ahead) == 3
    while ahead.follow(some, 4.0):
        pass
    assert not ahead.follow(images, LONG_S)
    assert list(ahead.take(images)) == paths


def test_what_is_not_listed_any_more_is_dropped(images):
    ahead = ReadAhead()
    ahead.follow(images, LONG_S)
    ahead.follow({}, LONG_S)
    assert ahead.take(images) == {}
    ahead.follow(images, LONG_S)
    assert ahead.take({}) == {}
    assert ahead.take(images) == {}


def test_a_file_that_changed_or_is_gone_is_left_to_the_job(images):
    ahead = ReadAhead()
    ahead.follow(images, LONG_S)
    changed, gone, replaced, *rest = images
    content = changed.read_bytes()
    changed.write_bytes(content)  # the same bytes, yet written anew
    gone.unlink()
    copy = replaced.with_suffix(".copy")
    copy.write_bytes(replaced.read_bytes())
    copy.replace(replaced)
    assert list(ahead.take(images)) == rest


def test_what_cannot_be_read_or_is_not_what_was_received_is_left_to_the_job(images, tmp_path):
    damaged, cut, *rest = images
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    cut.write_bytes(cut.read_bytes()[:300])
    no_image, absent = tmp_path / "no image", tmp_path / "absent"
    no_image.write_bytes(b"\0" * 1000)
    wanted = images | {cut: stored_sha256(cut), no_image: stored_sha256(no_image), absent: "0" * 64}
    ahead = ReadAhead()
    assert not ahead.follow(wanted, LONG_S)
    assert not ahead.follow(wanted, LONG_S)
    assert list(ahead.take(wanted)) == rest


def test_memory_is_bounded_and_given_back(images):
    one = 2 * 40 * 48
    ahead = ReadAhead(most_bytes=3 * one)
    assert not ahead.follow(images, LONG_S)
    assert list(ahead.take(images)) == list(images)[:3]
    ahead.follow(images, LONG_S)
    ahead.follow(dict(list(images.items())[2:]), LONG_S)  # two are dropped, and two others take their room
    assert len(ahead.take(images)) == 3


def test_of_an_image_whose_decoder_is_another_process_the_header_is_read(images):
    path, *_ = images

    def packed(ds: pydicom.Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([b"no JPEG"])
        ds["PixelData"].VR = "OB"

    rewrite(path, packed)
    images[path] = stored_sha256(path)
    ahead = ReadAhead()
    ahead.follow(images, LONG_S)
    taken = ahead.take(images)
    assert [p for p, instance in taken.items() if not decoded_bytes(instance)] == [path]


@pytest.fixture
def bench(tmp_path, fit_bundle):
    bench = open_bench(load_settings(write_configuration(tmp_path / "node", 11112, "bright", {"pacs": ("PACS", 104)})))
    activation.activate(
        bench.database, bench.settings, str(fit_bundle), "marie", "trained here", Evidence(without="a test")
    )
    yield bench
    close_bench(bench)


def read_all_ahead(bench):
    bench.worker.read_ahead()  # it may take them for a burst, and leave the processors to reception
    while bench.worker.read_ahead():
        pass
    return bench.worker.images_ahead


def test_a_resting_worker_reads_what_arrives_and_drops_what_is_held(bench, make_series):
    number = bench.add(make_series("p1"))
    assert len(arriving_images(bench.database, 1000)) == SLICES  # its job waits
    assert len(arriving_images(bench.database, 5)) == 5
    with bench.database.transaction() as session:
        session.get_one(SeriesRow, 1).state = SeriesState.RECEIVING
        session.get_one(JobRow, number).state = JobState.HELD
    assert read_all_ahead(bench) == SLICES
    with bench.database.transaction() as session:
        session.get_one(SeriesRow, 1).state = SeriesState.HELD
    assert arriving_images(bench.database, 1000) == {}
    assert read_all_ahead(bench) == 0


def test_a_burst_is_left_alone_until_it_is_over(bench, make_series, monkeypatch):
    bench.add(make_series("p1"))
    listed = arriving_images(bench.database, 1000)
    assert len(listed) == SLICES > worker.BURST
    at_first = dict(list(listed.items())[: worker.BURST])
    monkeypatch.setattr(worker, "arriving_images", lambda database, most: at_first)
    while bench.worker.read_ahead():
        pass
    assert bench.worker.images_ahead == worker.BURST  # not more than that came at a time
    monkeypatch.setattr(worker, "arriving_images", lambda database, most: listed)
    another = worker.Worker(bench.settings, "another")
    assert not another.read_ahead()
    assert another.images_ahead == 0
    while another.read_ahead():
        pass
    assert another.images_ahead == SLICES
    another.close()


def test_what_was_read_ahead_is_contoured_to_the_same_bytes(bench, make_series):
    first = bench.add(make_series("p1"))
    plain = bench.work()
    assert plain.state == JobState.DELIVERING
    content = (bench.root / "outgoing" / f"{first}-c1.dcm").read_bytes()
    with bench.database.transaction() as session:
        session.get_one(JobRow, first).state = JobState.QUEUED
    assert read_all_ahead(bench) == SLICES
    assert bench.work().state == JobState.DELIVERING
    assert (bench.root / "outgoing" / f"{first}-c2.dcm").read_bytes() == content
    assert bench.worker.images_ahead == 0


def test_a_damaged_file_is_told_though_it_was_read_ahead(bench, make_series):
    bench.add(make_series("p1"))
    assert read_all_ahead(bench) == SLICES
    path = min((bench.root / "incoming").rglob("*.dcm"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    job = bench.work()
    assert job.state == JobState.HELD
    assert f"1 of {SLICES} received images have changed on the disk" in str(job.reason)
