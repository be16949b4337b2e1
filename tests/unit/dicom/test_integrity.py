"""Images that are gone or changed are told by their position."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.integrity import require_intact
from contourd.errors import SeriesUnusable
from tests.phantom import write_series


@pytest.fixture
def images(tmp_path: Path) -> dict[Path, str]:
    """24 slices, 2.5 mm apart, from -28.75 mm upwards."""
    return {path: stored_sha256(path) for path in sorted(write_series(tmp_path / "ct").iterdir())}


def test_the_hash_is_that_of_the_dataset_as_it_was_received(tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(file_meta(CTImageStorage, "1.2.3", ExplicitVRLittleEndian) + b"dataset")
    assert stored_sha256(path) == hashlib.sha256(b"dataset").hexdigest()


@pytest.mark.parametrize("content", [b"", b"short", bytes(132) + b"\2\0\0\0UL\4\0\xff\xff\xff\xff"])
def test_what_is_no_file_of_ours_has_another_hash(tmp_path, content):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    assert stored_sha256(path) in ("", hashlib.sha256(b"").hexdigest())
    assert stored_sha256(tmp_path / "absent") == ""


def test_intact_images_pass(images):
    require_intact(images)


def test_a_changed_pixel_is_told_by_the_position_in_the_header(images):
    path = list(images)[2]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SeriesUnusable, match=r"^1 of 24 received images have changed on the disk \(z = -23\.75 mm\)"):
        require_intact(images)


def test_a_file_that_is_gone_is_told_by_the_gap(images):
    for k in (4, 5):
        list(images)[k].unlink()
    with pytest.raises(SeriesUnusable, match=r"^2 of 24 received images are gone \(z = -18\.75, -16\.25 mm\)"):
        require_intact(images)


def test_positions_that_cannot_be_told_are_not_guessed(images):
    list(images)[-1].unlink()  # the last one leaves no gap
    with pytest.raises(SeriesUnusable, match=r"are gone \(their positions cannot be told\); have the disk examined"):
        require_intact(images)
