"""Missing slices, and spacing that is unequal on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from shapely import Polygon

from contourd.contour.contouring import contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series, gate, read_volume
from contourd.dicom.reading.spacing import crowded_positions_mm, missing_positions_mm
from contourd.errors import SeriesUnusable, SlicesMissing
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from tests.phantom import rewrite, setting


def at(*steps: float) -> list[float]:
    return list(accumulate(steps, initial=0.0))


@pytest.mark.parametrize(
    ("positions", "missing"),
    [
        ([], ()),
        ([5.0], ()),
        ([0.0, 3.0], ()),
        ([0.0, 3.0, 6.0], ()),
        ([6.0, 0.0, 3.0], ()),
        ([0.0, 3.0, 3.0, 6.0], ()),
        ([0.0, 3.0, 9.0], (6.0,)),
        ([-6.0, -3.0, 6.0], (0.0, 3.0)),
        ([0.0, 3.0, 6.02], ()),  # within 1 %
        ([0.0, 2.5, 5.0, 12.5, 15.0], (7.5, 10.0)),
        ([0.0, 6.0, 9.0, 15.0, 21.0], (3.0, 12.0, 18.0)),  # most are missing: the smallest step tells the spacing
        ([0.0, 1.25, 2.51, 3.76, 6.26], (5.01,)),  # positions written with two decimals
        ([0.0, 3.0, 6.0, 6.4, 9.0, 12.0], ()),  # a stray slice is no reason to name missing ones; the gate refuses it
        (at(*[2] * 5, *[3] * 5), ()),  # no multiple: nothing can be missing in 3 mm of 2
        (at(*[2] * 5, 2.5, *[3] * 5), ()),  # half of either slice between two blocks
        (at(*[3] * 4, *[2] * 4, *[3] * 4), ()),
        (at(*[2] * 5, 5, *[3] * 5), (12.5,)),  # longer than the longer of its neighbours by over a half
        (at(*[2] * 5, 4, *[2] * 5), (12.0,)),
        (at(*[2] * 5, 4, 4, *[2] * 5), (12.0, 16.0)),  # two are no block
        (at(*[2] * 5, 4), (12.0,)),
        (at(4, *[2] * 5), (2.0,)),
        (at(*[2.0, 2.1, 1.9] * 4), ()),
        (at(*[0.6, 0.7, 0.6, 0.6] * 5), ()),  # 0.625 with one decimal
        (at(*[6] * 4, 3, *[6] * 4), (3.0, 9.0, 15.0, 21.0, 30.0, 36.0, 42.0, 48.0)),
    ],
)
def test_missing_positions(positions: list[float], missing: tuple[float, ...]) -> None:
    assert missing_positions_mm(positions) == pytest.approx(missing)
    assert missing_positions_mm(positions[::-1]) == pytest.approx(missing)


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        (range(1, 11), ()),  # the scanner counted on: it is a choice
        (range(10, 0, -1), ()),
        ([1, 2, 3, 4, 5, 6, 8, 10, 12, 14], (12.0, 16.0, 20.0, 24.0)),  # it made more than there are
        ([1, 2, 3, 4, 5, 6, 7, 8, 10, 11], (20.0,)),
        ([None] * 10, (12.0, 16.0, 20.0, 24.0)),  # nothing tells
    ],
)
def test_a_block_of_twice_the_step_is_believed_if_its_slices_are_numbered_on(
    numbers: Sequence[int | None], missing: tuple[float, ...]
) -> None:
    """Five steps of 2 mm and four of 4 mm: thick slices, or every second one of thin slices."""
    positions = at(*[2] * 5, *[4] * 4)
    assert missing_positions_mm(positions, numbers) == pytest.approx(missing)
    order = np.random.default_rng(0).permutation(10)
    assert missing_positions_mm([positions[i] for i in order], [numbers[i] for i in order]) == pytest.approx(missing)


@pytest.mark.parametrize(
    ("positions", "crowded"),
    [
        (at(*[3] * 8), None),
        (at(*[2] * 4, *[4] * 4), None),
        (at(*[3] * 4, 0.4, 2.6, *[3] * 4), (12.0, 12.4)),
        (at(0.5, *[3] * 4), (0.0, 0.5)),
    ],
)
def test_crowded_positions(positions: list[float], crowded: tuple[float, float] | None) -> None:
    assert crowded_positions_mm(positions) == (pytest.approx(crowded) if crowded else None)


RADIUS_MM = 24.0
STEPS_MM = (*[2.0] * 14, *[4.0] * 12)


def uneven() -> Volume:
    """Make a trunk with a bright ball across the border of 2 mm and 4 mm slices, at z = 28."""
    origins = np.full((len(STEPS_MM) + 1, 3), -123.0)
    origins[:, 2] = at(*STEPS_MM)
    grid = Grid((len(origins), 131, 119), (1.9, 2.1), origins)
    z, y, x = (np.moveaxis(grid.to_patient(np.indices(grid.shape).reshape(3, -1).T), -1, 0))[::-1]
    trunk = (x / 80) ** 2 + (y / 95) ** 2 <= 1
    ball = x**2 + y**2 + (z - 30) ** 2 <= RADIUS_MM**2
    return Volume(grid, np.select([ball, trunk], [600, 40], -1000).reshape(grid.shape).astype(np.int16))


def written(folder: Path) -> Path:
    return write_ct_series(uneven(), folder, SeriesIdentity("uneven", "Uneven^Test"))


def test_unequal_slices_are_contoured_where_they_lie(tmp_path: Path, bright_bundle: Path) -> None:
    folder = written(tmp_path / "ct")
    (instances,) = find_series(folder).values()
    volume = read_volume(gate(instances))
    np.testing.assert_array_equal(volume.hu, uneven().hu)
    contoured = contour_series(instances[::-1], predictor_for(load_bundle(bright_bundle), "cpu"))
    ball = next(roi for roi in contoured.structures.rois if roi.contours)
    wanted_cc = 4 / 3 * np.pi * RADIUS_MM**3 / 1000
    assert ball.volume_cc == pytest.approx(wanted_cc, rel=0.06)
    levels = {c.points_mm[0, 2] for c in ball.contours}
    assert levels <= set(at(*STEPS_MM))
    assert min(levels) <= 10
    assert max(levels) >= 48
    for low, high in pairwise(sorted(levels)):
        assert high - low == (2 if high <= 28 else 4)
    for contour in ball.contours:
        radius = np.sqrt(max(RADIUS_MM**2 - (contour.points_mm[0, 2] - 30) ** 2, 0))
        if radius > 14:
            loop = Polygon(contour.points_mm[:, :2])
            assert np.sqrt(loop.area / np.pi) == pytest.approx(radius, abs=1.5)
            np.testing.assert_allclose([loop.centroid.x, loop.centroid.y], [0, 0], atol=1.0)


def test_a_slice_missing_in_either_block_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "ct")
    for k in (5, 20):
        (folder / f"CT_{k:04d}.dcm").unlink()
    (instances,) = find_series(folder).values()
    with pytest.raises(SlicesMissing) as caught:
        gate(instances)
    # z = 2 x 5 in the first block, 28 + 4 x 6 in the second.
    assert caught.value.reason.detail["z_mm"] == pytest.approx([10.0, 52.0])


def refusal(folder: Path) -> str:
    (instances,) = find_series(folder).values()
    with pytest.raises(SeriesUnusable) as caught:
        gate(instances)
    return str(caught.value)


def test_slices_too_far_apart_are_named(tmp_path: Path) -> None:
    def spread(ds: pydicom.Dataset) -> None:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, float(z) * 1.5]

    folder = written(tmp_path / "ct")
    for path in folder.iterdir():
        rewrite(path, spread)
    assert refusal(folder) == (
        "the slices at z = 42.00 and 48.00 mm are 6.00 mm apart, more than 5 mm; send thinner slices"
    )


def test_a_slice_between_others_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "ct")
    stray = folder / "stray.dcm"
    stray.write_bytes((folder / "CT_0017.dcm").read_bytes())
    x, y, _ = pydicom.dcmread(stray).ImagePositionPatient
    rewrite(stray, setting(SOPInstanceUID=generate_uid(), ImagePositionPatient=[x, y, 40.8]))
    assert refusal(folder) == (
        "the slices at z = 40.00 and 40.80 mm lie closer together than those around them (two acquisitions); "
        "send one reconstruction"
    )


def test_numbers_decide_in_doubt(tmp_path: Path) -> None:
    folder = written(tmp_path / "ct")
    for path in folder.iterdir():
        rewrite(path, setting(InstanceNumber=None))
    (instances,) = find_series(folder).values()
    with pytest.raises(SlicesMissing) as caught:
        gate(instances)
    assert caught.value.reason.detail["z_mm"] == pytest.approx(list(range(30, 76, 4)))
