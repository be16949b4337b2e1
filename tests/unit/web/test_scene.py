"""Planes of the CT and contours on them: the right side, the right place, the right size, in every position."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import gate, read_instance
from contourd.dicom.rtstruct.writer import Provenance, structure_set_dataset
from contourd.errors import SeriesUnusable
from contourd.imaging.contours import ROI, StructureSet, trace
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.remarks import Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.structures import catalogue
from contourd.web.scene import NOTHING_HU, PLANES, open_held_scene, open_scene
from tests.orientations import TURNED, write_turned

# Slices of 3 mm, rows 2 mm apart, columns 1.5 mm: nothing is square.
SHAPE, SPACING_MM = (20, 40, 60), (3.0, 2.0, 1.5)
LIMIT = 10**9


def phantom() -> Volume:
    """A box of 400 HU on the patient's left, at the back, near the head: z 12 to 15, y 24 to 33, x 40 to 51."""
    hu = np.zeros(SHAPE, dtype=np.int16)
    hu[12:16, 24:34, 40:52] = 400
    return Volume(Grid.regular(SHAPE, SPACING_MM), hu)


def written(folder: Path, images: Path) -> Path:
    """Write the box's structure set for a series on disk: of the pixels over 200 HU, with a remark."""
    series = gate([read_instance(path) for path in sorted(images.iterdir())])
    hu = np.stack([pixel_values(i.path) for i in series.instances])
    mask = hu > 200
    whole = tuple(slice(0, n) for n in mask.shape)
    roi = ROI("Parotid_L", trace(mask, whole, series.grid), 0.0)
    found = Finding("Parotid_L", RemarkCheck.VOLUME, Measure.VOLUME_CC, 4.3, (5.0, 9.0))
    remarks = Remarks((Remark(found, RemarkVerdict.FLAG),))
    dataset = structure_set_dataset(
        StructureSet((roi,)), series, Provenance.of_one("m", "1", "0" * 64, "0" * 64, 1), catalogue(), remarks=remarks
    )
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path = folder / "rt.dcm"
    path.write_bytes(buffer.getvalue())
    return path


def pixel_values(path: Path) -> np.ndarray:
    dataset = pydicom.dcmread(path)
    return dataset.pixel_array.astype(np.int16) + int(dataset.RescaleIntercept)


def bounds(path: str) -> tuple[float, float, float, float]:
    """Left, upper, right, lower of an SVG path."""
    points = np.array([[float(v) for v in pair.split()] for pair in re.findall(r"[ML]([^MLZ]+)", path)])
    return (*points.min(axis=0), *points.max(axis=0))


@pytest.fixture(params=list(TURNED))
def scene(request, tmp_path):
    images = write_turned(phantom(), request.param, tmp_path / "ct")
    return open_scene(sorted(images.iterdir()), written(tmp_path, images), LIMIT)


def test_every_position_shows_the_same_pictures(scene):
    assert [scene.count(plane) for plane in PLANES] == [20, 40, 60]
    assert scene.size_mm("axial") == (90.0, 80.0)
    assert scene.size_mm("coronal") == (90.0, 60.0)
    assert scene.size_mm("sagittal") == (80.0, 60.0)
    box = phantom().hu
    assert np.array_equal(scene.pixels("axial", 13), box[13])
    assert np.array_equal(scene.pixels("coronal", 28), box[::-1, 28])  # the head is on top
    assert np.array_equal(scene.pixels("sagittal", 45), box[::-1, :, 45])


def test_the_contours_lie_where_the_box_is(scene):
    # Columns 40 to 51 reach from 60 to 78 mm, rows 24 to 33 from 48 to 68, slices 12 to 15 from 12 to 24 under the top.
    (organ,) = scene.organs
    assert bounds(scene.outlines("axial", 13)[organ.number]) == pytest.approx((60.0, 48.0, 78.0, 68.0), abs=0.02)
    assert bounds(scene.outlines("coronal", 28)[organ.number]) == pytest.approx((60.0, 12.0, 78.0, 24.0), abs=0.02)
    assert bounds(scene.outlines("sagittal", 45)[organ.number]) == pytest.approx((48.0, 12.0, 68.0, 24.0), abs=0.02)


@pytest.mark.parametrize("plane", PLANES)
def test_no_contour_beyond_the_box(scene, plane):
    first, last = {"axial": (12, 15), "coronal": (24, 33), "sagittal": (40, 51)}[plane]
    assert [bool(scene.outlines(plane, i)) for i in (first - 1, first, last, last + 1)] == [False, True, True, False]


def test_the_organ_says_its_size_and_its_remark(scene):
    (organ,) = scene.organs
    assert organ.name == "Parotid_L"
    assert organ.volume_cc == pytest.approx(4 * 10 * 12 * 3 * 2 * 1.5 / 1000)
    assert organ.colour == "#00c000"
    assert organ.remark == "volume 4.3 cc, expected 5.0 to 9.0 cc"


def test_it_opens_on_the_largest_part(scene):
    assert 12 <= scene.first_look("axial") <= 15
    assert 24 <= scene.first_look("coronal") <= 33
    assert 40 <= scene.first_look("sagittal") <= 51


def test_unequal_slices_are_drawn_where_they_lie(tmp_path):
    # Twelve slices of 2 mm, then eight of 4 mm: 22 + 8 x 4 = 54 mm from the first to the last, drawn in steps of 2 mm.
    origins = np.zeros((20, 3))
    origins[:, 2] = [*(2.0 * k for k in range(12)), *(22.0 + 4.0 * k for k in range(1, 9))]
    hu = np.zeros(SHAPE, dtype=np.int16)
    hu[16:18, 10:20, 10:20] = 400  # z = 42 and 46
    images = write_ct_series(
        Volume(Grid(SHAPE, (2.0, 1.5), origins), hu), tmp_path / "ct", SeriesIdentity("U", "Unequal^Test")
    )
    scene = open_scene(sorted(images.iterdir()), written(tmp_path, images), LIMIT)
    assert scene.size_mm("coronal") == (90.0, 56.0)
    assert scene.pixels("coronal", 12).shape == (28, 60)
    # z = 48 lies 6 mm under the last centre and so 7 mm under the upper edge; z = 40 lies 15 mm under it.
    left, upper, right, lower = bounds(scene.outlines("coronal", 12)[1])
    assert (left, upper, right, lower) == pytest.approx((15.0, 7.0, 30.0, 15.0), abs=0.02)
    shown = np.flatnonzero(scene.pixels("coronal", 12)[:, 12] > 200)
    assert (shown.min() * 2.0, (shown.max() + 1) * 2.0) == pytest.approx((upper, lower), abs=2.0)


def test_a_job_without_a_structure_set_shows_the_ct(tmp_path):
    images = write_turned(phantom(), "HFS", tmp_path / "ct")
    scene = open_scene(sorted(images.iterdir()), None, LIMIT)
    assert scene.organs == ()
    assert [scene.first_look(plane) for plane in PLANES] == [10, 20, 30]
    assert scene.outlines("axial", 13) == {}


GAP = (5, 6, 7)


def held(folder: Path) -> list[Path]:
    """Three slices of the box's series are missing, and a localizer, a file that is none and a repeat came with it."""
    images = sorted(write_turned(phantom(), "HFS", folder / "ct").iterdir())
    kept = [path for i, path in enumerate(images) if i not in GAP]
    scout = pydicom.dcmread(images[5])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(folder / "scout.dcm")
    (folder / "none.dcm").write_bytes(b"no DICOM")
    return [folder / "scout.dcm", folder / "none.dcm", *kept, kept[0]]


def test_a_held_series_shows_what_is_there_and_where_it_lacks(tmp_path):
    images = held(tmp_path)
    with pytest.raises(SeriesUnusable):
        open_scene(images, None, LIMIT)
    scene = open_held_scene(images, LIMIT)
    low = scene.grid.slice_origins_mm[0, 2]
    # Twenty slices of 3 mm make 60 mm; the missing ones reach from 15 to 24 mm above the feet, 36 to 45 under the top.
    assert scene.gaps == (pytest.approx([low + 15, low + 18, low + 21]),)
    assert scene.gap_depths_mm() == [pytest.approx((36.0, 45.0))]
    assert (scene.count("axial"), scene.size_mm("coronal"), scene.left_out) == (17, (90.0, 60.0), 3)
    empty = np.flatnonzero((scene.pixels("coronal", 5) == NOTHING_HU).all(axis=1))
    assert empty.tolist() == [12, 13, 14]
    assert scene.first_look("axial") == 4  # the slice below the gap


def test_a_held_series_of_two_kinds_shows_the_larger(tmp_path):
    images = sorted(write_turned(phantom(), "HFS", tmp_path / "ct").iterdir())
    for path in images[:6]:
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.save_as(path)
    scene = open_held_scene(images, LIMIT)
    assert (scene.count("axial"), scene.gaps, scene.left_out) == (14, (), 6)


def test_a_held_series_of_nothing_that_can_be_shown_says_so(tmp_path):
    images = sorted(write_turned(phantom(), "HFS", tmp_path / "ct").iterdir())
    for paths, told in (([], "no image"), (images[:1], "no two CT slices")):
        with pytest.raises(SeriesUnusable, match=told):
            open_held_scene(paths, LIMIT)
    with pytest.raises(SeriesUnusable, match=r"web\.cache_mb"):
        open_held_scene(images, 1000)


def test_what_is_too_large_is_said(tmp_path):
    images = write_turned(phantom(), "HFS", tmp_path / "ct")
    with pytest.raises(SeriesUnusable, match=r"web\.cache_mb"):
        open_scene(sorted(images.iterdir()), None, 20 * 40 * 60 * 2 - 1)


def test_a_file_that_vanished_is_said(tmp_path):
    images = write_turned(phantom(), "HFS", tmp_path / "ct")
    with pytest.raises(SeriesUnusable, match="cannot be read"):
        open_scene(sorted(images.iterdir()), tmp_path / "rt.dcm", LIMIT)


def test_a_shadow_is_drawn_beside_and_told_apart_and_one_that_cannot_be_read_is_left_out(tmp_path):
    images = write_turned(phantom(), "HFS", tmp_path / "ct")
    live = written(tmp_path, images)
    (tmp_path / "broken.dcm").write_bytes(b"no structure set")
    shadows = [("gone", tmp_path / "gone.dcm"), ("broken", tmp_path / "broken.dcm"), ("candidate 2", live)]
    scene = open_scene(sorted(images.iterdir()), live, LIMIT, shadows)
    assert [(organ.name, organ.shadow) for organ in scene.organs] == [("Parotid_L", ""), ("Parotid_L", "candidate 2")]
    first, second = (organ.number for organ in scene.organs)
    outlines = scene.outlines("axial", 13)
    assert first != second
    assert outlines[first] == outlines[second]
