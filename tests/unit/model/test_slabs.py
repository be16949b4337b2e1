"""The output block in slabs: the same answer as in one piece, where there is a body."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.blocks import SqueezeExcitation
from contourd.model.folding import folded
from contourd.model.slabs import AIR, slabs
from contourd.model.torch_runtime import TorchRuntime

MODEL = AnatomyNetConfig(structures=("Brainstem", "Parotid_L", "Parotid_R"), channels=(4, 5, 6, 7))


def body(shape: tuple[int, int, int], box: tuple[slice, slice, slice]) -> np.ndarray:
    image = np.full(shape, AIR, dtype=np.float32)
    image[box] = np.random.default_rng(0).uniform(-0.9, 1, image[box].shape)
    return image


@pytest.mark.parametrize("shape", [(16, 16, 16), (33, 17, 20), (70, 31, 29), (64, 30, 28)])
@pytest.mark.parametrize("pools", [1, 3])
def test_slabs_give_what_the_whole_gives(shape, pools):
    torch.manual_seed(1)
    network = AnatomyNet(MODEL.model_copy(update={"pools": pools})).eval()
    image = body(shape, np.s_[2:, 3:-2, 1:-3])
    with torch.inference_mode():
        whole = torch.softmax(network(torch.from_numpy(image)[None, None]), dim=1)[0, 1:].numpy()
    found = TorchRuntime(network, torch.device("cpu")).probabilities(image)
    inside = np.zeros(shape, dtype=bool)
    for slab in slabs(image):
        inside[slab.kept] = True
    assert inside[image > AIR].all()
    np.testing.assert_allclose(found[:, inside], whole[:, inside], atol=1e-5)
    assert not found[:, ~inside].any()


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
def test_a_folded_network_answers_the_same(norm):
    torch.manual_seed(2)
    network = AnatomyNet(MODEL.model_copy(update={"norm": norm})).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.randn(1, 1, 20, 18, 17)
    lighter = folded(network)
    excitations = [m for m in lighter.modules() if isinstance(m, SqueezeExcitation)]
    assert len(excitations) == (0 if norm == "instance" else 12)
    with torch.inference_mode():
        before, after = network(image), lighter(image)
    assert float(before.abs().max()) > 1
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_each_voxel_of_the_body_is_in_one_slab_and_air_in_none():
    image = body((80, 20, 24), np.s_[40:, 5:9, 7:12])
    image[40:50, 2] = 0.5
    count = np.zeros(image.shape, dtype=int)
    for slab in slabs(image):
        count[slab.kept] += 1
        assert all(part.start % 2 == 0 for part in slab.read)
    np.testing.assert_array_equal(count[image > AIR], 1)
    assert count.max() == 1
    assert not count[:32].any()
    assert not count[64:, 2].any()


def test_no_body_no_slab():
    assert list(slabs(np.full((40, 20, 20), AIR, dtype=np.float32))) == []
