"""What an outline can differ by from its voxels, on pixels of every size, and what is a fault on each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from contourd.dicom.rtstruct.read_back_organ import SURFACE_SHARE, organ_differs
from contourd.imaging.contours import MaskInBox, trace
from contourd.imaging.grid import Grid

PIXELS_MM = (0.4, 0.98, 1.5, 2.6, 4.7)
# Of 17 x 14 x 40 mm, somewhat oblique: an esophagus.
HALF_AXES_MM = np.array([20.0, 8.5, 7.0])


def grid(pixel_mm: float) -> Grid:
    side = int(60 / pixel_mm)
    return Grid.regular((24, side, side), (2.5, pixel_mm, pixel_mm), (-30.0, -30.0, 0.0))


def probability(on: Grid, softness_mm: float = 4.0, seed: int = 0) -> np.ndarray:
    """A soft ellipsoid with noise, 0.5 on its surface, in the CT's whole box."""
    z, y, x = np.meshgrid(
        on.slice_positions_mm,
        np.arange(on.shape[1]) * on.pixel_spacing_mm[0],
        np.arange(on.shape[2]) * on.pixel_spacing_mm[1],
        indexing="ij",
    )
    place = np.stack([z - 30.1, y - 28.3 + 0.2 * (z - 30), x - 31.7], axis=-1)
    depth_mm = (1 - np.linalg.norm(place / HALF_AXES_MM, axis=-1)) * 8
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(on.shape), 1.0)
    return np.clip(0.5 + depth_mm / softness_mm + 0.1 * noise / noise.std(), 0, 1).astype(np.float32)


def whole(on: Grid) -> tuple[slice, slice, slice]:
    return slice(0, on.shape[0]), slice(0, on.shape[1]), slice(0, on.shape[2])


def drawn(on: Grid, values: np.ndarray) -> tuple[list[np.ndarray], MaskInBox]:
    """The outlines as a structure set holds them, to a hundredth of a millimetre, and the voxels."""
    found = [np.column_stack([c.points_mm[:, :2].round(2), c.points_mm[:, 2]]) for c in trace(values, whole(on), on)]
    return found, MaskInBox(whole(on), values >= 0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pixel_mm", PIXELS_MM)
def test_what_was_drawn_reads_back(pixel_mm: float, seed: int) -> None:
    on = grid(pixel_mm)
    contours, mask = drawn(on, probability(on, seed=seed))
    assert organ_differs(contours, mask, on) == ""


@pytest.mark.parametrize("pixel_mm", PIXELS_MM)
@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("pixels", [0.5, 1.0, -1.0])
def test_what_lies_half_a_pixel_or_more_beside_is_found(pixel_mm: float, along: int, pixels: float) -> None:
    on = grid(pixel_mm)
    contours, mask = drawn(on, probability(on))
    moved = [points + np.eye(3)[along] * pixels * pixel_mm for points in contours]
    assert "reads back" in organ_differs(moved, mask, on)


@pytest.mark.parametrize("pixel_mm", PIXELS_MM)
def test_other_faults_are_found(pixel_mm: float) -> None:
    on = grid(pixel_mm)
    contours, mask = drawn(on, probability(on))
    middle = sorted({float(points[0, 2]) for points in contours})[len(contours) // 3]
    lost = [points for points in contours if points[0, 2] != middle]
    mirrored = [points * np.array([-1, 1, 1]) for points in contours]
    doubled = [points + np.array([0, 0, 2.5]) for points in contours]  # a slice on
    larger = [(points - points.mean(axis=0)) * np.array([1.3, 1.3, 1]) + points.mean(axis=0) for points in contours]
    for fault in (lost, mirrored, doubled, larger, contours[:2], []):
        assert "reads back" in organ_differs(fault, mask, on)


def test_a_voxel_of_doubt_is_no_fault_of_the_other_nine() -> None:
    """Ten voxels of 4.7 mm, the last of them with a probability of 0.501: its outline has 1 mm2 at no place.

    Its half diagonals are (0.501 - 0.5) / 0.501 = 0.002 pixels, so that it is left out: Dice is 2 x 9 / 19 = 0.947.
    """
    on = Grid.regular((12, 12, 12), (3.0, 4.7, 4.7), (0.0, 0.0, 0.0))
    values = np.zeros(on.shape, dtype=np.float32)
    values[2:6, 5, 5:7] = 0.9
    values[6, 5, 6], values[7, 5, 6] = 0.9, 0.501
    contours, mask = drawn(on, values)
    assert mask.mask.sum() == 10
    assert {points[0, 2] for points in contours} == {6.0, 9.0, 12.0, 15.0, 18.0}
    assert organ_differs(contours, mask, on) == ""


@pytest.mark.parametrize(("voxels", "accepted"), [(1, True), (2, False)])
def test_of_ten_voxels_one_may_be_of_doubt(voxels: int, accepted: bool) -> None:
    """All ten lie on the surface, of which a tenth may differ."""
    assert SURFACE_SHARE == 0.1
    on = Grid.regular((14, 12, 12), (3.0, 4.7, 4.7), (0.0, 0.0, 0.0))
    values = np.zeros(on.shape, dtype=np.float32)
    values[2:12, 5, 6] = [*[0.9] * (10 - voxels), *[0.501] * voxels]
    contours, mask = drawn(on, values)
    told = organ_differs(contours, mask, on)
    wanted = "reads back with Dice 0.8889: 2 voxels differ, of 10 on its surface at most 1 may"  # 2 x 8 / 18
    assert told == ("" if accepted else wanted)


def test_a_part_that_would_have_been_drawn_is_missed() -> None:
    """Four neighbours in a square have an outline of a pixel at least, whatever their probability."""
    on = Grid.regular((40, 20, 20), (3.0, 4.7, 4.7), (0.0, 0.0, 0.0))
    values = np.zeros(on.shape, dtype=np.float32)
    values[2:38, 5:9, 5:9] = 0.9
    values[38, 5:7, 5:7] = 0.6
    contours, mask = drawn(on, values)
    assert organ_differs(contours, mask, on) == ""
    # 36 slices with 12 voxels at their edge, and 4: 436 on the surface, so that 44 may differ, and these are 4.
    lost = [points for points in contours if points[0, 2] < 38 * 3]
    assert organ_differs(lost, mask, on) == "reads back with a voxel that lies inf pixels beyond its outline"


def test_a_hole_that_is_not_drawn_is_no_fault() -> None:
    """On pixels of 0.98 mm, one of 9 voxels has an outline of at least 4 pixels, and up to 10 mm2 are left out."""
    on = grid(0.98)
    values = probability(on, softness_mm=1.0)
    values = np.where(values > 0.5, 1.0, values).astype(np.float32)
    middle = tuple(int(i) for i in np.argwhere(values >= 0.5).mean(axis=0))
    values[middle[0], middle[1] - 1 : middle[1] + 2, middle[2] - 1 : middle[2] + 2] = 0.45
    contours, mask = drawn(on, values)
    assert sum(points[0, 2] == middle[0] * 2.5 for points in contours) == 1
    assert organ_differs(contours, mask, on) == ""
    solid = replace(mask, mask=ndimage.binary_fill_holes(mask.mask))
    assert organ_differs(contours, solid, on) == ""
