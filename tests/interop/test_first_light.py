"""A CT series sent by DCMTK comes back to Orthanc as one structure set that other readers understand.

The patients: the reference patient that contourd ships, and a real one where shared data stand beside the checkout.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray

from contourd.acceptance.reference_patient import reference_series
from contourd.contour.contouring import contour_series
from contourd.dicom.reading.series import find_series, gate
from contourd.dicom.rtstruct.second_reader import second_reader_loads
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from tests.bright import referenced_series
from tests.interop.node import serve
from tests.peers import dciodvfy_errors, free_port, orthanc, plastimatch_masks, rt_utils, storescu

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

SHARED = Path(__file__).resolve().parents[3] / "shared"
PATIENT = "pt_201"
MODEL = "hn7"
# Voxels of an organ's last slice whose outline, rounded to pixels, may be a line: rt-utils fills nothing.
SPECK = 3
# A second reader where there is one.
CHECK = f"[check]\nrt_utils = {str(second_reader_loads()).lower()}\n"


@dataclass(frozen=True)
class Delivered:
    """What was sent, what Orthanc held afterwards, and contourd's own masks of the same series on its own grid."""

    ct_folder: Path
    rtstruct: Path
    studies: list[str]
    structure_sets: list[pydicom.Dataset]
    masks: Mapping[str, NDArray[np.bool_]]
    voxel_cc: float


def openkbp_patient(folder: Path) -> Path:
    tool = SHARED / "tools" / "dicom_archive.py"
    if not (SHARED / "data" / "openkbp" / "validation").is_dir():
        pytest.skip("the shared data are not beside the checkout")
    command = [sys.executable, tool, "openkbp", folder, "--split", "validation", "--patients", PATIENT]
    subprocess.run(command, check=True, capture_output=True)
    (folder / PATIENT / "RTSTRUCT.dcm").unlink()
    return folder / PATIENT


@pytest.fixture(scope="module", params=["reference", "openkbp"])
def delivered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = tmp_path_factory.mktemp(request.param)
    ct_folder = reference_series(folder / "ct") if request.param == "reference" else openkbp_patient(folder / "ct")
    node_port = free_port()
    with orthanc(folder / "orthanc", {"contourd": ("CONTOURD", node_port)}) as pacs:
        # As in a clinic the PACS holds the CT already, so the structure set has a study to join.
        assert storescu(pacs.port, ct_folder, called=pacs.ae_title).status == 0
        with serve(folder / "node", MODEL, {"pacs": (pacs.ae_title, pacs.port)}, node_port, CHECK) as node:
            sent = storescu(node.port, ct_folder)
            assert sent.status == 0, sent.output
            ended = node.wait_until(
                lambda status: [j["state"] for j in status["jobs"]] in (["DELIVERED"], ["HELD"]), timeout_s=600
            )
            assert [(job["state"], job["reason"]) for job in ended["jobs"]] == [("DELIVERED", "")]
            structure_sets, studies = pacs.instances("RTSTRUCT"), pacs.studies()
    rtstruct = folder / "rtstruct.dcm"
    structure_sets[0].save_as(rtstruct, enforce_file_format=True)
    torch.set_num_threads(1)
    (instances,) = find_series(ct_folder).values()
    grid = gate(instances).grid
    masks = contour_series(instances, predictor_for(load_bundle(MODEL), "cpu")).masks
    whole = {name: mask.on(grid.shape) for name, mask in masks.items()}
    return Delivered(ct_folder, rtstruct, studies, structure_sets, whole, grid.voxel_volume_mm3 / 1000)


def test_one_structure_set_in_the_same_study(delivered: Delivered) -> None:
    ct = pydicom.dcmread(min(delivered.ct_folder.iterdir()), stop_before_pixels=True)
    (structure_set,) = delivered.structure_sets
    assert delivered.studies == [ct.StudyInstanceUID]
    assert structure_set.StudyInstanceUID == ct.StudyInstanceUID
    assert referenced_series(structure_set) == ct.SeriesInstanceUID
    assert structure_set.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert (structure_set.PatientID, structure_set.PatientName) == (ct.PatientID, ct.PatientName)


def test_dciodvfy_finds_no_error(delivered: Delivered) -> None:
    assert dciodvfy_errors(delivered.rtstruct) == []


def test_plastimatch_sees_the_same_organs(delivered: Delivered, tmp_path: Path) -> None:
    theirs = plastimatch_masks(delivered.rtstruct, delivered.ct_folder, tmp_path)
    large = {name: mask for name, mask in delivered.masks.items() if mask.sum() * delivered.voxel_cc > 5}
    assert len(large) >= 4
    scores = {name: 2 * (mask & theirs[name]).sum() / (mask.sum() + theirs[name].sum()) for name, mask in large.items()}
    assert {name: score for name, score in scores.items() if score < 0.97} == {}


def test_rt_utils_reads_it(delivered: Delivered) -> None:
    """It rounds points to pixels and fills the rim, so not outlines are compared: the slices, and the place on them."""
    loaded = rt_utils().RTStructBuilder.create_from(str(delivered.ct_folder), str(delivered.rtstruct))
    found = {name for name, mask in delivered.masks.items() if mask.any()}
    assert set(loaded.get_roi_names()) <= found
    for name in loaded.get_roi_names():
        theirs, ours = loaded.get_roi_mask_by_name(name).transpose(2, 0, 1), delivered.masks[name]
        filled = set(np.flatnonzero(theirs.any(axis=(1, 2))))
        assert filled <= set(np.flatnonzero(ours.any(axis=(1, 2))))
        assert set(np.flatnonzero(ours.sum(axis=(1, 2)) > SPECK)) <= filled
        shifts = [np.argwhere(theirs[k]).mean(0) - np.argwhere(ours[k]).mean(0) for k in filled]
        np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.5)
