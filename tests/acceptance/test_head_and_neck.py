"""The shipped model on what is no head and neck: it holds, and invents nothing. And it knows the one that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contourd.acceptance.reference_patient import reference_series
from contourd.contour.contouring import contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series, gate, read_volume
from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import Predictor

NO_HEAD_AND_NECK = "does not look like a head and neck"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_for(load_bundle("hn7"), "cpu")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    (instances,) = find_series(reference_series(tmp_path_factory.mktemp("reference"))).values()
    return coarse(read_volume(gate(instances)))


def coarse(volume: Volume) -> Volume:
    """Every third row and column: the network sees no more than 4 mm anyway."""
    dy, dx = volume.grid.pixel_spacing_mm
    hu = np.ascontiguousarray(volume.hu[:, ::3, ::3])
    return Volume(Grid(hu.shape, (3 * dy, 3 * dx), volume.grid.slice_origins_mm), hu)


def contoured(folder: Path, volume: Volume, predictor: Predictor):
    (instances,) = find_series(write_ct_series(volume, folder, SeriesIdentity("p", "A^B"))).values()
    return contour_series(instances, predictor)


def made(*cylinders: tuple[float, float, float, float]) -> Volume:
    """Upright cylinders in air: centre x, y and radius in mm, and HU; later ones replace earlier ones."""
    grid = Grid.regular((80, 128, 128), (3.0, 3.0, 3.0), (-190.0, -190.0, 0.0))
    rows, columns = (np.arange(128) * 3.0 - 190 for _ in range(2))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    plane = np.full((128, 128), -1000.0)
    for centre_x, centre_y, radius, hu in cylinders:
        plane[np.hypot(x - centre_x, y - centre_y) < radius] = hu
    noise = np.random.default_rng(0).normal(0, 15, grid.shape)
    return Volume(grid, np.clip(plane + noise, -1024, 3000).astype(np.int16))


@pytest.mark.parametrize(
    "volume",
    [
        pytest.param(made((0, 0, 100, 0)), id="a water phantom"),
        pytest.param(made((0, 0, 75, 40), (0, 0, 18, 1200), (0, 0, 10, 100)), id="a leg"),
        pytest.param(made((0, 0, 120, 20), (0, 60, 22, 350), (0, 85, 10, 40)), id="a trunk with a spine"),
    ],
)
def test_what_is_no_head_and_neck_is_held(volume: Volume, predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(SeriesUnusable, match=NO_HEAD_AND_NECK):
        contoured(tmp_path / "ct", volume, predictor)


def test_air_is_held(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(SeriesUnusable, match="no patient found"):
        contoured(tmp_path / "ct", made(), predictor)


def test_the_reference_patient_is_known_and_upside_down_is_not(
    reference: Volume, predictor: Predictor, tmp_path: Path
) -> None:
    result = contoured(tmp_path / "upright", reference, predictor)
    assert (len([roi for roi in result.structures.rois if roi.contours]), result.remarks.withheld) == (7, {})
    upside_down = Volume(reference.grid, np.ascontiguousarray(reference.hu[::-1]))
    with pytest.raises(SeriesUnusable, match=NO_HEAD_AND_NECK):
        contoured(tmp_path / "turned", upside_down, predictor)


def test_the_chest_of_the_reference_patient_is_held(reference: Volume, predictor: Predictor, tmp_path: Path) -> None:
    slices = slice(0, reference.grid.shape[0] // 4)
    grid = reference.grid
    lowest = Grid(reference.hu[slices].shape, grid.pixel_spacing_mm, grid.slice_origins_mm[slices])
    with pytest.raises(SeriesUnusable, match=NO_HEAD_AND_NECK):
        contoured(tmp_path / "chest", Volume(lowest, reference.hu[slices]), predictor)
