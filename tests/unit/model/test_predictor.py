"""The inference path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from contourd.errors import DeviceError
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.bundle import save_bundle
from contourd.model.kinds import predictor_for
from contourd.model.lattice_predictor import TOUCHING, LatticePrediction, OnLattice, largest_component
from contourd.model.runtime import check_memory, choose_device
from contourd.model.transforms import Preprocess, PreprocessConfig

MODEL = AnatomyNetConfig(structures=("Brainstem", "Parotid_L", "Parotid_R"), channels=(4, 4, 4, 4))


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
    prediction = predictor_for(bundle(), "cpu").predict(
        volume(), lambda stage, fraction: stages.append((stage, fraction))
    )
    assert prediction.structures == MODEL.structures
    (on,) = prediction.lattices
    assert on.probabilities.shape == (3, *on.prepared.image.shape)
    assert [s for s, f in stages if f == 1.0] == ["prepare", "contour"]
    for name in MODEL.structures:
        assert prediction.mask(name).on((40, 60, 60)).shape == (40, 60, 60)


def test_the_same_volume_gives_the_same_probabilities(bundle):
    predictor = predictor_for(bundle(), "cpu")
    first, second = predictor.predict(volume()), predictor.predict(volume())
    np.testing.assert_array_equal(first.lattices[0].probabilities, second.lattices[0].probabilities)


def test_mirrored_prediction_is_symmetric(bundle):
    """With mirror averaging, the mirror image of a volume gives the mirror image with left and right exchanged."""
    predictor = predictor_for(bundle(mirror=True), "cpu")
    image = predictor.preprocess.prepare(volume()).image
    p, q = predictor.probabilities(image), predictor.probabilities(np.ascontiguousarray(image[..., ::-1]))
    np.testing.assert_allclose(q[1], p[2, ..., ::-1], atol=1e-5)
    np.testing.assert_allclose(q[0], p[0, ..., ::-1], atol=1e-5)


def test_two_lattices_are_averaged(bundle):
    prediction = predictor_for(bundle(half_voxel=True), "cpu").predict(volume())
    one, other = prediction.lattices
    np.testing.assert_allclose(other.prepared.axes_mm[0][0], one.prepared.axes_mm[0][0] - 2)
    for i, name in enumerate(MODEL.structures):
        box, mean = prediction.restored(name)
        expected = np.zeros((40, 60, 60), dtype=np.float32)
        for on in prediction.lattices:
            part, probability = prediction.preprocess.restore(on.probabilities[i], on.prepared)
            expected[part] += probability / 2
        kept = mean > 0
        assert kept.any()
        np.testing.assert_allclose(mean[kept], expected[box][kept], atol=1e-6)
        assert ndimage.label(mean >= 0.5, np.ones((3, 3, 3)))[1] <= 1


def test_an_organ_of_one_lattice_alone_is_half_as_likely():
    preprocess = Preprocess(PreprocessConfig())
    lattices = []
    for half_voxel, value in ((False, 0.96), (True, 0.0)):
        prepared = preprocess.prepare(volume(), half_voxel)
        organ = np.zeros((1, *prepared.image.shape), dtype=np.float32)
        organ[0, 10:14, 10:14, 10:14] = value
        lattices.append(OnLattice(organ, prepared))
    _, alone = LatticePrediction((lattices[0],), ("Larynx",), preprocess).restored("Larynx")
    _, mean = LatticePrediction(tuple(lattices), ("Larynx",), preprocess).restored("Larynx")
    assert (alone.max(), mean.max()) == pytest.approx((0.96, 0.48))
    assert LatticePrediction((lattices[1],), ("Larynx",), preprocess).restored("Larynx")[1].size == 0


def test_corners_that_touch_are_one_part_on_the_ct_s_grid():
    probability = np.zeros((1, 4, 4), dtype=np.float32)
    probability[0, [0, 1, 2], [0, 1, 2]] = 0.8
    assert np.count_nonzero(largest_component(probability)) == 1
    np.testing.assert_array_equal(largest_component(probability, touching=TOUCHING), probability)


def test_largest_component():
    probability = np.zeros((1, 6, 12), dtype=np.float32)
    probability[0, 1:4, 1:5] = 0.9  # 12 voxels
    probability[0, 2, 5] = 0.3  # the kept part's soft edge
    probability[0, 1:3, 8:10] = 0.8  # an island of 4
    probability[0, 1, 10] = 0.4  # and its edge
    kept = largest_component(probability)
    expected = probability.copy()
    expected[0, :, 8:] = 0
    np.testing.assert_array_equal(kept, expected)


def test_one_component_is_left_alone():
    probability = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32) * 0.4
    np.testing.assert_array_equal(largest_component(probability), probability)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "mps"):
        with pytest.raises(DeviceError, match=r"worker\.device"):
            choose_device(name)


def test_too_large_for_the_memory():
    with pytest.raises(DeviceError, match="GiB"):
        check_memory(torch.device("cpu"), 10**12, 100)
    check_memory(torch.device("cpu"), 1000, 100)


def test_the_predictor_refuses_what_does_not_fit(bundle, monkeypatch):
    predictor = predictor_for(bundle(), "cpu")
    monkeypatch.setattr(AnatomyNet, "peak_bytes_per_voxel", {"torch": 10**9})
    with pytest.raises(DeviceError, match="use a device with more memory"):
        predictor.predict(volume())
