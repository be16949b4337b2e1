"""The reference patient: complete, anatomically ordered, and a clinical CT series when written."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.acceptance.reference_patient import clinical_grid, load_reference, reference_masks, reference_series
from contourd.dicom.reading.series import find_series, gate, read_volume
from contourd.imaging.grid import Grid

ORGANS = {"Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Bone_Mandible", "Larynx", "Esophagus"}


@pytest.fixture(scope="module")
def masks() -> tuple[Grid, dict[str, np.ndarray]]:
    grid = clinical_grid(load_reference())
    return grid, reference_masks(grid)


def centre(grid: Grid, mask: np.ndarray) -> np.ndarray:
    return grid.to_patient(np.argwhere(mask).mean(axis=0))[0]


def test_it_is_a_mean_of_many_and_says_of_which():
    provenance = load_reference().provenance
    assert len(provenance["cases"]) >= 12
    assert all(number >= 3 for number in provenance["annotated"].values())
    assert "OpenKBP" in provenance["data"]


def test_organs_have_the_size_of_organs(masks):
    grid, organs = masks
    assert set(organs) == ORGANS
    volumes = {name: mask.sum() * grid.voxel_volume_mm3 / 1000 for name, mask in organs.items()}
    # The range of the training annotations, widely taken.
    assert 10 < volumes["Brainstem"] < 48
    assert 5 < volumes["SpinalCord"] < 57
    assert 29 < volumes["Bone_Mandible"] < 112
    for name in ("Parotid_L", "Parotid_R"):
        assert 8 < volumes[name] < 80


def test_left_is_left_and_up_is_up(masks):
    grid, organs = masks
    at = {name: centre(grid, mask) for name, mask in organs.items()}
    assert at["Parotid_R"][0] < at["Brainstem"][0] - 30
    assert at["Parotid_L"][0] > at["Brainstem"][0] + 30
    assert at["Brainstem"][2] > at["Larynx"][2] > at["Esophagus"][2]
    assert at["Bone_Mandible"][1] < at["Brainstem"][1]
    assert at["SpinalCord"][1] > at["Larynx"][1]


def test_bone_is_bright_where_the_mandible_is():
    reference = load_reference()
    mandible = reference.organs["Bone_Mandible"] > 0.8
    assert np.median(reference.volume.hu[mandible]) > 250
    cord = reference.organs["SpinalCord"] > 0.8
    assert -20 < np.median(reference.volume.hu[cord]) < 120


def test_the_series_passes_the_gate_and_reads_back(tmp_path):
    (instances,) = find_series(reference_series(tmp_path / "ct", seed=1)).values()
    series = gate(instances)
    assert series.grid.shape[1:] == (512, 512)
    assert series.grid.spacing_mm == pytest.approx((2.5, 0.9765625, 0.9765625), abs=1e-5)
    hu = read_volume(series).hu
    middle = hu[len(hu) // 2]
    assert np.median(middle[:40]) < -990  # air in front
    body = (middle > -20) & (middle < 100)
    assert 5 < np.std(np.diff(middle, axis=1)[body[:, 1:] & body[:, :-1]]) < 40  # noise, as a scanner has it
