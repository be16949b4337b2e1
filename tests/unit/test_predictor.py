"""The inference path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contourd.errors import DeviceError
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model import runtime
from contourd.model.anatomynet import AnatomyNet, ModelConfig
from contourd.model.bundle import save_bundle
from contourd.model.predictor import Predictor, _largest_component
from contourd.model.runtime import check_memory, choose_device

MODEL = ModelConfig(structures=("Brainstem", "Parotid_L", "Parotid_R"), channels=(4, 4, 4, 4))


def volume() -> Volume:
    grid = Grid.regular((40, 60, 60), (3.0, 4.0, 4.0), (-118.0, -118.0, 0.0))
    _, y, x = np.indices(grid.shape)
    body = ((x - 29.5) / 20) ** 2 + ((y - 29.5) / 24) ** 2 <= 1
    rng = np.random.default_rng(0)
    hu = np.where(body, 40 + rng.normal(0, 60, grid.shape), -1000)
    return Volume(grid, hu.astype(np.int16))


@pytest.fixture
def bundle(tmp_path):
    torch.manual_seed(3)
    fields = {"name": "tiny", "version": "1", "model": MODEL.model_dump(mode="json"), "preprocess": {}}
    return lambda **more: save_bundle(tmp_path / "tiny", {**fields, **more}, AnatomyNet(MODEL))


def test_a_prediction_names_its_organs_and_fits_the_ct(bundle):
    stages = []
    prediction = Predictor(bundle(), "cpu").predict(volume(), lambda stage, fraction: stages.append((stage, fraction)))
    assert prediction.structures == MODEL.structures
    assert prediction.probabilities.shape == (3, *prediction.prepared.image.shape)
    assert [s for s, f in stages if f == 1.0] == ["prepare", "contour"]
    for name in MODEL.structures:
        assert prediction.mask(name).on((40, 60, 60)).shape == (40, 60, 60)


def test_the_same_volume_gives_the_same_probabilities(bundle):
    predictor = Predictor(bundle(), "cpu")
    first, second = predictor.predict(volume()), predictor.predict(volume())
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


def test_mirrored_prediction_is_symmetric(bundle):
    """With mirror averaging, the mirror image of a volume gives the mirror image with left and right exchanged."""
    predictor = Predictor(bundle(mirror=True), "cpu")
    image = predictor.preprocess.prepare(volume()).image
    p, q = predictor._probabilities(image), predictor._probabilities(np.ascontiguousarray(image[..., ::-1]))
    np.testing.assert_allclose(q[2], p[3, ..., ::-1], atol=1e-5)
    np.testing.assert_allclose(q[1], p[1, ..., ::-1], atol=1e-5)


def test_largest_component():
    probability = np.zeros((1, 6, 12), dtype=np.float32)
    probability[0, 1:4, 1:5] = 0.9  # 12 voxels
    probability[0, 2, 5] = 0.3  # the kept part's soft edge
    probability[0, 1:3, 8:10] = 0.8  # an island of 4
    probability[0, 1, 10] = 0.4  # and its edge
    kept = _largest_component(probability)
    expected = probability.copy()
    expected[0, :, 8:] = 0
    np.testing.assert_array_equal(kept, expected)


def test_one_component_is_left_alone():
    probability = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32) * 0.4
    np.testing.assert_array_equal(_largest_component(probability), probability)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "mps"):
        with pytest.raises(DeviceError, match=r"worker\.device"):
            choose_device(name)


def test_too_large_for_the_memory():
    with pytest.raises(DeviceError, match="GiB"):
        check_memory(torch.device("cpu"), 10**12)
    check_memory(torch.device("cpu"), 1000)


def test_the_predictor_refuses_what_does_not_fit(bundle, monkeypatch):
    predictor = Predictor(bundle(), "cpu")
    monkeypatch.setattr(runtime, "BYTES_PER_VOXEL", 10**9)
    with pytest.raises(DeviceError, match="use a device with more memory"):
        predictor.predict(volume())
