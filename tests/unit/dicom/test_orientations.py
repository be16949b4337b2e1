"""The same patient in every position gives the same contours in patient coordinates, left and right included."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from contourd.contour.contouring import contour_series
from contourd.dicom.reading.series import find_series
from contourd.dicom.rtstruct.reader import read_structure_set
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import Predictor
from tests.orientations import TURNED, farthest_mm, turned, write_turned

SPACING_MM = (3.0, 3.5, 4.0)


def lopsided() -> Volume:
    """Make a trunk with one bright organ to the left, front and head of its middle, with no symmetry of its own."""
    grid = Grid.regular((26, 60, 58), SPACING_MM, (-118.0, -101.0, -30.0))
    z, y, x = np.indices(grid.shape)
    points = grid.to_patient(np.column_stack([z.ravel(), y.ravel(), x.ravel()])).reshape(*grid.shape, 3)
    x, y, z = np.moveaxis(points, -1, 0)
    trunk = (x / 80) ** 2 + (y / 90) ** 2 <= 1
    ball = (x - 25) ** 2 + (y + 20) ** 2 + (z - 18) ** 2 <= 20**2
    horn = ((x - 48) / 20) ** 2 + ((y + 30) / 9) ** 2 + ((z - 24) / 12) ** 2 <= 1
    return Volume(grid, np.select([ball | horn, trunk], [400, 40], -1000).astype(np.int16))


@pytest.fixture(scope="module")
def predictor(bright_bundle) -> Predictor:
    return predictor_for(load_bundle(bright_bundle), "cpu")


@pytest.fixture(scope="module")
def supine(tmp_path_factory, predictor):
    (instances,) = find_series(write_turned(lopsided(), "HFS", tmp_path_factory.mktemp("supine"))).values()
    return contour_series(instances, predictor)


@pytest.mark.parametrize("orientation", TURNED)
def test_the_contours_stay_where_they_are_in_the_patient(tmp_path, predictor, supine, orientation):
    folder = write_turned(lopsided(), orientation, tmp_path / "ct")
    header = pydicom.dcmread(folder / "CT_0000.dcm")
    assert header.PatientPosition == orientation.split(",")[0]
    assert [float(v) for v in header.ImageOrientationPatient] == [v for part in TURNED[orientation] for v in part]
    (instances,) = find_series(folder).values()
    contoured = contour_series(instances, predictor)
    assert farthest_mm(contoured.structures.rois, supine.structures.rois) < 0.1
    assert contoured.structures.rois[0].volume_cc == pytest.approx(supine.structures.rois[0].volume_cc)
    (read,) = read_structure_set(contoured.dataset)
    x, y, z = np.concatenate(read.contours).mean(axis=0)
    assert 25 < x < 48  # to the patient's left, between the two parts
    assert -30 < y < -10
    assert 10 < z < 30


@pytest.mark.parametrize("orientation", TURNED)
def test_turning_moves_no_voxel(orientation):
    volume = lopsided()
    other = turned(volume, orientation)
    for k, row, column in [(0, 0, 0), (20, 5, 40), (25, 59, 57)]:
        point = volume.grid.to_patient([[k, row, column]])
        index = other.grid.to_index(point)[0]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-9)
        assert other.hu[tuple(np.rint(index).astype(int))] == volume.hu[k, row, column]


def test_a_mirrored_organ_is_told_from_the_true_one(supine):
    """The measure of these tests finds a swap of left and right."""
    (organ, *_rest) = supine.structures.rois
    for contour in organ.contours:
        assert contour.points_mm[:, 0].min() > 0
    mirrored = type(organ)(
        organ.name,
        tuple(type(c)(c.slice_index, c.points_mm * [-1, 1, 1]) for c in organ.contours),
        organ.volume_cc,
    )
    assert farthest_mm([organ], [mirrored]) > 20
