"""The shipped model contours the reference patient alike in every position in which it may have been scanned."""

from __future__ import annotations

from pathlib import Path

import pytest

from contourd.contouring import Contoured, contour_series
from contourd.dicom.series import find_series
from contourd.model.bundle import load_bundle
from contourd.model.predictor import Predictor
from contourd.reference import load_reference
from tests.orientations import farthest_mm, write_turned
from tests.phantom import ORIENTATIONS


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_bundle("hn7"), "cpu")


def contoured(folder: Path, predictor: Predictor, orientation: str) -> Contoured:
    (instances,) = find_series(write_turned(load_reference().volume, orientation, folder)).values()
    return contour_series(instances, predictor)


@pytest.fixture(scope="module")
def supine(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Contoured:
    return contoured(tmp_path_factory.mktemp("supine") / "ct", predictor, "HFS")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("orientation", [name for name in ORIENTATIONS if name != "HFS"])
def test_the_reference_patient_in_every_position(
    tmp_path: Path, predictor: Predictor, supine: Contoured, orientation: str
) -> None:
    result = contoured(tmp_path / "ct", predictor, orientation)
    found = {roi.name: roi for roi in result.structures.rois if roi.contours}
    assert {"Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Bone_Mandible"} <= set(found)
    assert farthest_mm(result.structures.rois, supine.structures.rois) < 0.1
    assert min(c.points_mm[:, 0].mean() for c in found["Parotid_L"].contours) > 0  # x to the patient's left
    assert max(c.points_mm[:, 0].mean() for c in found["Parotid_R"].contours) < 0
