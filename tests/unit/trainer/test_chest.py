"""The chest is found by the body's own shape: a head on a neck on shoulders, however long and fine the scan."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from trainer.case import Annotation, Case
from trainer.curation.chest import KEPT_BELOW_MM, head_and_neck
from trainer.curation.conversion import without_chest

HEAD_MM, NECK_MM = 200.0, 80.0


def body(length_mm: float, slice_mm: float = 3.0, pixel_mm: float = 5.0) -> tuple[Volume, float]:
    """Build a body of that length from the crown downwards; returns the shoulders' position from the first slice."""
    grid = Grid.regular((round(length_mm / slice_mm), 120, 120), (slice_mm, pixel_mm, pixel_mm), (-300, -300, -700))
    hu = np.full(grid.shape, -1000, dtype=np.int16)
    from_crown = length_mm - np.arange(grid.shape[0]) * slice_mm
    y, x = (np.indices(grid.shape[1:]) - 59.5) * pixel_mm
    for k, down in enumerate(from_crown):
        half = 75.0 if down < HEAD_MM else 60.0 if down < HEAD_MM + NECK_MM else 210.0
        hu[k][(x / half) ** 2 + (y / 90) ** 2 <= 1] = 30
    return Volume(grid, hu), length_mm - HEAD_MM - NECK_MM


@pytest.mark.parametrize("slice_mm", [2.0, 3.0, 5.0])
def test_the_chest_goes_and_the_shoulders_stay(slice_mm):
    volume, shoulders_mm = body(700, slice_mm)
    kept = head_and_neck(volume)
    assert kept.stop == volume.grid.shape[0]
    assert kept.start * slice_mm == pytest.approx(shoulders_mm - KEPT_BELOW_MM, abs=4 + slice_mm)


@pytest.mark.parametrize("length_mm", [180, 260, 340])
def test_a_scan_without_a_chest_stays_whole(length_mm):
    volume, _ = body(length_mm)
    assert head_and_neck(volume).start == 0


def test_nobody():
    volume, _ = body(400)
    with pytest.raises(SeriesUnusable):
        head_and_neck(Volume(volume.grid, np.full(volume.grid.shape, -1000, dtype=np.int16)))


def test_an_organ_of_the_chest_becomes_absent_and_the_rest_moves_with_the_slices():
    volume, _ = body(700)
    lung, brain = (np.zeros(volume.grid.shape, dtype=bool) for _ in range(2))
    lung[10:40, 50:70, 50:70] = True
    brain[200:220, 50:70, 50:70] = True
    said = {"Lung_L": Annotation.PRESENT, "Brain": Annotation.PRESENT, "Larynx": Annotation.ABSENT}
    case, removed_mm = without_chest(Case("c", volume, {"Lung_L": lung, "Brain": brain}, said, "s"))
    first = round(removed_mm / 3)
    assert 250 < removed_mm < 350
    assert case.annotations == {**said, "Lung_L": Annotation.ABSENT}
    assert np.array_equal(case.volume.hu, volume.hu[first:])
    assert np.array_equal(case.masks["Brain"], brain[first:])
    assert np.array_equal(
        case.volume.grid.to_patient(np.array([0.0, 5.0, 6.0])), volume.grid.to_patient(np.array([first, 5.0, 6.0]))
    )
