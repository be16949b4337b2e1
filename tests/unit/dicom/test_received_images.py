"""Received images that are read once give what reading them for each purpose gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.received_images import decoded_bytes, read_received
from contourd.dicom.reading.series import gate, read_instance, read_volume
from contourd.errors import SeriesUnusable
from tests.phantom import rewrite, setting, write_series

SLICES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_series(tmp_path / "ct")


def received(folder: Path) -> dict[Path, str]:
    return {path: stored_sha256(path) for path in sorted(folder.iterdir())}


def as_it_is(ds: pydicom.Dataset) -> None:
    pass


def packed(ds: pydicom.Dataset) -> None:
    ds.compress(RLELossless, generate_instance_uid=False)


def padded(ds: pydicom.Dataset) -> None:
    ds.add_new("PixelPaddingValue", "US", 0)


def halved(ds: pydicom.Dataset) -> None:
    ds.RescaleSlope = "0.5"


@pytest.mark.parametrize("change", [as_it_is, packed, padded, halved])
def test_the_volume_and_the_headers_are_those_of_the_plain_way(folder, change):
    for path in folder.iterdir():
        rewrite(path, change)
    plain = [read_instance(path) for path in sorted(folder.iterdir())]
    once = read_received(received(folder))
    assert once == plain
    assert all(decoded_bytes(instance) for instance in once)
    volume = read_volume(gate(once))
    assert np.array_equal(volume.hu, read_volume(gate(plain)).hu)
    assert not any(decoded_bytes(instance) for instance in once)  # no second copy of the volume stays
    assert np.array_equal(read_volume(gate(once)).hu, volume.hu)  # from the files again


def test_a_deflated_image_is_read_by_its_header_alone(folder):
    path = sorted(folder.iterdir())[3]
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    once = read_received(received(folder))
    assert once == [read_instance(path) for path in sorted(folder.iterdir())]
    assert [k for k, instance in enumerate(once) if not decoded_bytes(instance)] == [3]


def test_what_changed_on_the_disk_is_told(folder):
    images = received(folder)
    path = list(images)[2]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SeriesUnusable, match=r"^1 of 24 received images have changed on the disk \(z = -23\.75 mm\)"):
        read_received(images)
    path.unlink()
    with pytest.raises(SeriesUnusable, match=r"^1 of 24 received images are gone \(z = -23\.75 mm\)"):
        read_received(images)


def test_damage_is_told_before_what_else_is_wrong(folder):
    """The third image cannot be read, and the tenth has changed since it was received."""
    third, tenth = sorted(folder.iterdir())[2:10:7]
    rewrite(third, lambda ds: ds.pop("SeriesInstanceUID"))
    images = received(folder)
    tenth.write_bytes(tenth.read_bytes() + b"\0")
    with pytest.raises(SeriesUnusable, match="have changed on the disk"):
        read_received(images)
    with pytest.raises(SeriesUnusable, match="lacks SeriesInstanceUID"):
        read_received(received(folder))


def test_pixels_that_cannot_be_decoded_are_told_after_the_gate(folder):
    path = sorted(folder.iterdir())[5]
    rewrite(path, lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2]))
    once = read_received(received(folder))
    assert decoded_bytes(once[5]) == 0
    series = gate(once)
    with pytest.raises(SeriesUnusable, match=r"^slice z = -16\.25 mm"):
        read_volume(series)


@pytest.mark.parametrize("wrong", [{"BitsStored": 0}, {"BitsStored": 99}, {"Rows": 0}, {"RescaleSlope": None}])
def test_what_the_gate_refuses_is_told_by_the_gate(folder, wrong):
    for path in folder.iterdir():
        rewrite(path, setting(**wrong))
    plain = [read_instance(path) for path in sorted(folder.iterdir())]
    with pytest.raises(SeriesUnusable) as told:
        gate(plain)
    once = read_received(received(folder))
    assert not any(map(decoded_bytes, once))
    with pytest.raises(SeriesUnusable) as again:
        gate(once)
    assert str(again.value) == str(told.value)


def test_images_that_were_read_before_are_not_read_again(folder):
    images = received(folder)
    known = dict(zip(images, read_received(images), strict=True))
    gone = list(images)[4]
    gone.unlink()
    once = read_received(images, {gone: known[gone]})
    assert once == list(known.values())
    assert once[4] is known[gone]


def test_pixels_are_held_up_to_a_bound(folder):
    one = decoded_bytes(read_received(received(folder))[0])
    once = read_received(received(folder), most_bytes=3 * one)
    assert [bool(decoded_bytes(instance)) for instance in once] == [True] * 3 + [False] * (SLICES - 3)
