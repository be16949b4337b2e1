"""The shipped model contours a patient alike in every position in which he may have been scanned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from contourd.acceptance.reference_patient import load_reference
from contourd.contour.contouring import ContouringResult, contour_series
from contourd.dicom.reading.series import find_series
from contourd.imaging.volume import Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import Predictor
from tests.orientations import farthest_mm, write_turned
from tests.phantom import ORIENTATIONS
from trainer.case import read_case

REAL = Path(__file__).parents[3] / "shared" / "data" / "openkbp" / "validation" / "pt_201.npz"


@dataclass(frozen=True, eq=False)
class Patient:
    """A CT, and what the model finds in it when the patient lies supine, head first."""

    volume: Volume
    predictor: Predictor
    supine: ContouringResult


def contoured(volume: Volume, folder: Path, predictor: Predictor, orientation: str) -> ContouringResult:
    (instances,) = find_series(write_turned(volume, orientation, folder)).values()
    return contour_series(instances, predictor)


@pytest.fixture(scope="module", params=["reference", "openkbp"])
def patient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Patient:
    if request.param == "openkbp" and not REAL.exists():
        pytest.skip("the shared data are not beside the checkout")
    volume = load_reference().volume if request.param == "reference" else read_case(REAL).volume
    predictor = predictor_for(load_bundle("hn7"), "cpu")
    return Patient(volume, predictor, contoured(volume, tmp_path_factory.mktemp("supine") / "ct", predictor, "HFS"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("orientation", [name for name in ORIENTATIONS if name != "HFS"])
def test_a_patient_in_every_position(tmp_path: Path, patient: Patient, orientation: str) -> None:
    result = contoured(patient.volume, tmp_path / "ct", patient.predictor, orientation)
    found = {roi.name: roi for roi in result.structures.rois if roi.contours}
    assert {"Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Bone_Mandible"} <= set(found)
    assert farthest_mm(result.structures.rois, patient.supine.structures.rois) < 0.001
    left, right = (found[name].contours for name in ("Parotid_L", "Parotid_R"))
    # x grows to the patient's left
    assert min(c.points_mm[:, 0].mean() for c in left) > max(c.points_mm[:, 0].mean() for c in right)
