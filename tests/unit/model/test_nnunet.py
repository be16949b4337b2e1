"""An nnU-Net behind contourd draws what nnUNetv2_predict draws, whichever way the patient lies."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from contourd.contour.contouring import contour_series
from contourd.dicom.reading.series import find_series, gate, read_volume
from contourd.errors import DeviceError, DeviceUnavailable
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.kinds import predictor_for
from contourd.model.nnunet_bundle import nnunetv2, quiet
from contourd.model.nnunet_memory import Memory, require_memory
from contourd.model.predictor import RunOptions
from contourd.models.nnunet_import import ImportOrder, import_nnunet
from contourd.models.organ_map import LabelReading
from contourd.reasons.catalogue import HoldReason
from tests.nnunet import TRAINED, phantom, write_results
from tests.orientations import TURNED, turned, write_turned

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
ORGANS = {"parotid_left": "Parotid_L", "parotid_right": "Parotid_R", "Brainstem": "Brainstem"}


def read_name(label: str) -> LabelReading:
    return LabelReading(ORGANS.get(label, ""), "alias" if label in ORGANS else "none")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    output = tmp_path_factory.mktemp("nnunet") / "phantom"
    made = import_nnunet(ImportOrder(TRAINED, "phantom", output), read_name)
    return predictor_for(made.bundle, "cpu")


def peer(folder, device="cpu"):
    """Return what nnUNetv2_predict makes its masks with."""
    primus = types.ModuleType("dynamic_network_architectures.architectures.primus")
    vars(primus).update(dict.fromkeys(["Primus", *(f"PrimusV2{size}" for size in "SBML")], object))
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setitem(sys.modules, primus.__name__, primus)
        found = nnunetv2().Predictor(device=torch.device(device), perform_everything_on_device=False, allow_tqdm=False)
        found.initialize_from_trained_model_folder(str(folder), None)
    return found


def label_map(folder, hu, spacing_mm):
    with quiet():
        return peer(folder).predict_single_npy_array(hu[None].astype(np.float32), {"spacing": list(spacing_mm)})


def dice(p, q) -> float:
    return 2 * np.count_nonzero(p & q) / (np.count_nonzero(p) + np.count_nonzero(q))


@pytest.fixture(scope="module")
def supine():
    """A patient of other spacing than the model's, and the masks of nnU-Net itself."""
    volume, _ = phantom(77)
    finer = [(np.arange(round(side * 1.25)) / 1.25).astype(int) for side in volume.grid.shape]
    hu = volume.hu[np.ix_(*finer)]
    grid = Grid.regular(hu.shape, (3.2, 3.6, 3.6), (-100.0, -90.0, -40.0))
    labels = label_map(TRAINED, hu, grid.spacing_mm)
    assert {1, 2, 3} <= set(np.unique(labels))
    return Volume(grid, hu), labels


def test_the_trained_network_finds_the_organs(predictor):
    """So that what is compared below are organs, and not noise."""
    volume, labels = phantom(99)
    prediction = predictor.predict(volume)
    for name, label in (("Parotid_L", 1), ("Parotid_R", 2), ("Brainstem", 3)):
        assert dice(prediction.mask(name).on(volume.grid.shape), labels == label) > 0.7


@pytest.mark.parametrize("position", TURNED)
def test_the_masks_are_those_of_nnunet_in_every_position(predictor, supine, position):
    volume, labels = supine
    prediction = predictor.predict(turned(volume, position))
    for name, label in (("Parotid_L", 1), ("Parotid_R", 2), ("Brainstem", 3)):
        expected = turned(Volume(volume.grid, (labels == label).astype(np.int16)), position).hu.astype(bool)
        assert dice(prediction.mask(name).on(expected.shape), expected) >= 0.999


def test_through_dicom_left_is_left(predictor, supine, tmp_path):
    volume, _ = supine
    (instances,) = find_series(write_turned(volume, "FFP", tmp_path / "ct")).values()
    contoured = contour_series(instances, predictor)
    middles = {
        roi.name: np.concatenate([c.points_mm for c in roi.contours]).mean(axis=0) for roi in contoured.structures.rois
    }
    assert middles["Parotid_L"][0] > middles["Parotid_R"][0] + 50
    assert "phantom" in contoured.dataset.ManufacturerModelName
    again = contour_series(instances, predictor)
    assert again.dataset.SOPInstanceUID == contoured.dataset.SOPInstanceUID
    assert again.dataset.to_json() == contoured.dataset.to_json()


def test_axes_that_run_the_other_way_are_turned(tmp_path, supine):
    """A model whose files were made by dcm2niix saw the CT with its rows in the other order; here columns too."""
    volume, _ = supine
    organs = tmp_path / "organs.toml"
    lines = [
        f'{label} = "{ORGANS.get(label, "")}"' for label in ("parotid_left", "parotid_right", "Brainstem", "implant")
    ]
    organs.write_text("\n".join(['axes = "SAR"', "[organs]", *lines]))
    made = import_nnunet(ImportOrder(TRAINED, "turned", tmp_path / "turned", str(organs)), read_name)
    flipped = volume.hu[:, ::-1, ::-1]
    expected = label_map(TRAINED, flipped, volume.grid.spacing_mm)[:, ::-1, ::-1] == 3
    found = predictor_for(made.bundle, "cpu").predict(volume).mask("Brainstem").on(volume.grid.shape)
    assert dice(found, expected) >= 0.999


def test_uneven_slices_are_laid_on_even_ones(predictor, supine):
    volume, labels = supine
    origins = volume.grid.slice_origins_mm.copy()
    origins[15:, 2] += 3.2  # one slice is missing
    grid = Grid(volume.grid.shape, volume.grid.pixel_spacing_mm, origins)
    found = predictor.predict(Volume(grid, volume.hu)).mask("Brainstem").on(grid.shape)
    assert found.any()
    assert found[:15].any() == (labels == 3)[:15].any()


def test_an_ensemble_with_old_plans_as_totalsegmentator_has_them(tmp_path):
    folder = write_results(tmp_path)
    (folder / "fold_1").mkdir()
    checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.0.bias"] += 0.3
    torch.save(checkpoint, folder / "fold_1" / "checkpoint_final.pth")
    order = ImportOrder(folder, "glands", tmp_path / "glands", "totalsegmentator-head-glands-cavities")
    made = import_nnunet(order, read_name)
    assert made.bundle.config.model.folds == ("0", "1")
    assert made.bundle.config.model.structures == ("Eye_L", "Eye_R", "Parotid_L", "Parotid_R", "Palate_Soft")
    assert made.bundle.config.known_pairs == (("Eye_L", "Eye_R"), ("Parotid_L", "Parotid_R"))
    volume, _ = phantom(5)
    flipped = volume.hu[:, ::-1, ::-1]  # nibabel's canonical axes
    expected = label_map(folder, flipped, volume.grid.spacing_mm)[:, ::-1, ::-1]
    prediction = predictor_for(made.bundle, "cpu").predict(volume)
    for name, label in zip(made.bundle.config.model.structures, made.bundle.config.model.labels, strict=True):
        mask = prediction.mask(name).on(volume.grid.shape)
        assert (not (expected == label).any() and not mask.any()) or dice(mask, expected == label) >= 0.999


def test_more_memory_than_the_worker_may_have_is_refused_with_the_figure(predictor, supine):
    volume, _ = supine
    small = predictor_for(predictor.bundle, options=RunOptions(torch.device("cpu"), memory_bytes=10**6))
    with pytest.raises(DeviceError, match=r"about \d+\.\d GB .*worker\.memory_gb allows 0\.0") as refused:
        small.predict(volume)
    assert refused.value.reason.code is HoldReason.OVER_WORKER_MEMORY
    with pytest.raises(DeviceError, match="GiB") as never:
        require_memory(Memory(2**60, 0), torch.device("cpu"), 0)
    assert not isinstance(never.value, DeviceUnavailable)


def test_the_estimate_grows_with_labels_and_voxels(predictor):
    model = predictor.bundle.config.model
    one = Memory.of(model, (100, 256, 256), (2.0, 1.0, 1.0), 0).host
    assert Memory.of(model, (200, 256, 256), (2.0, 1.0, 1.0), 0).host > 1.5 * one


def test_no_patient_is_refused_as_for_any_model(predictor, tmp_path):
    volume, _ = phantom(1)
    (instances,) = find_series(
        write_turned(Volume(volume.grid, np.full_like(volume.hu, -1000)), "HFS", tmp_path)
    ).values()
    from contourd.errors import SeriesUnusable

    with pytest.raises(SeriesUnusable, match="no patient"):
        predictor.predict(read_volume(gate(instances)))
