"""The network and every variant of the paper's tables."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig, parameter_count
from contourd.model.blocks import SqueezeExcitation, Unit

ORGANS = tuple("abcdefghi")

# (block, skip, pools) -> trained weights with channels 28/30/32/34, nine organs, instance norm.
PARAMETERS = {
    ("vanilla", "concat", 1): 723342,
    ("vanilla", "concat", 2): 730572,
    ("vanilla", "concat", 3): 738796,
    ("vanilla", "concat", 4): 748078,
    ("vanilla", "sum", 1): 653114,
    ("vanilla", "sum", 2): 660344,
    ("vanilla", "sum", 3): 668568,
    ("vanilla", "sum", 4): 677850,
    ("residual", "concat", 1): 731826,
    ("residual", "concat", 2): 739056,
    ("residual", "concat", 3): 747280,
    ("residual", "concat", 4): 756562,
    ("residual", "sum", 1): 658890,
    ("residual", "sum", 2): 666120,
    ("residual", "sum", 3): 674344,
    ("residual", "sum", 4): 683626,
    ("se_residual", "concat", 1): 733596,
    ("se_residual", "concat", 2): 740826,
    ("se_residual", "concat", 3): 749050,
    ("se_residual", "concat", 4): 758332,
    ("se_residual", "sum", 1): 660660,
    ("se_residual", "sum", 2): 667890,
    ("se_residual", "sum", 3): 676114,
    ("se_residual", "sum", 4): 685396,
}


def by_hand(block: str, skip: str, pools: int) -> int:
    """Count the weights from the paper's figure, layer by layer."""
    c0, c1, c2, c3 = 28, 30, 32, 34

    def unit(a: int, b: int) -> int:
        weights = 27 * a * b + 27 * b * b + 2 * 2 * b  # two convolutions, two norms with scale and shift
        if block != "vanilla" and a != b:
            weights += a * b
        if block == "se_residual":
            hidden = b // 15
            weights += b * hidden + hidden + hidden * b + b
        return weights

    def join(a: int, b: int) -> tuple[int, int]:
        return (a + b, 0) if skip == "concat" else (a, a * b)

    total = 27 * c0 + c0
    for a, b in ((c0, c1), (c1, c2), (c2, c3)):
        total += unit(a, b) + unit(b, b)
    for stage, (a, b) in zip((3, 2, 1), ((c3, c2), (c2, c1), (c1, c0)), strict=True):
        wide, mapping = join(a, b)
        total += mapping + unit(wide, b) + unit(b, b)
        total += 8 * a * a + a if stage < pools else 0  # up-sampling where there was a pool
    total += 8 * c0 * c0 + c0 + 27 * (c0 + 1) * 16 + 16 + 27 * 16 * 10 + 10
    return total


@pytest.mark.parametrize("variant", PARAMETERS)
def test_variants(variant):
    block, skip, pools = variant
    network = AnatomyNet(AnatomyNetConfig(structures=ORGANS, block=block, skip=skip, pools=pools)).eval()
    assert parameter_count(network) == PARAMETERS[variant] == by_hand(block, skip, pools)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 16, 24, 20)).shape == (1, 10, 16, 24, 20)


def test_there_are_all_24():
    assert len(PARAMETERS) == 24


@pytest.mark.parametrize("size", [(17, 19, 21), (33, 16, 31), (5, 7, 9), (16, 16, 16)])
@pytest.mark.parametrize("pools", [1, 4])
def test_any_size(size, pools):
    network = AnatomyNet(AnatomyNetConfig(structures=("a",), pools=pools, channels=(4, 4, 4, 4), norm="batch")).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize(
    ("pools", "sizes"), [(1, (8, 8, 8, 8)), (2, (8, 4, 4, 4)), (3, (8, 4, 2, 2)), (4, (8, 4, 2, 1))]
)
def test_resolutions_of_table_2(pools, sizes):
    network = AnatomyNet(AnatomyNetConfig(structures=("a",), pools=pools, channels=(4, 4, 4, 4), norm="batch")).eval()
    seen = []
    for module in (network.stem, *network.encoder):
        module.register_forward_hook(lambda m, i, o: seen.append(o.shape[-1]))
    with torch.no_grad():
        network(torch.zeros(1, 1, 16, 16, 16))
    assert tuple(seen) == sizes


def test_the_paper_s_size():
    network = AnatomyNet(AnatomyNetConfig(structures=ORGANS))
    assert round(parameter_count(network) / 1e6, 2) == 0.73


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_every_weight_is_trained(norm):
    torch.manual_seed(0)
    network = AnatomyNet(AnatomyNetConfig(structures=("a", "b"), channels=(15, 16, 17, 18), norm=norm))
    network(torch.randn(1, 1, 12, 12, 12)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_excitation_scales_each_channel_by_its_own_weight():
    excitation = SqueezeExcitation(30)
    torch.nn.init.zeros_(excitation.excite.weight)
    with torch.no_grad():
        excitation.excite.bias.copy_(torch.linspace(-2, 2, 30))
    x = torch.randn(1, 30, 3, 4, 5)
    expected = x * torch.sigmoid(torch.linspace(-2, 2, 30))[None, :, None, None, None]
    torch.testing.assert_close(excitation(x), expected)


def test_a_residual_unit_passes_its_input_on():
    unit = Unit("residual", "batch", 4, 4).eval()
    torch.nn.init.zeros_(unit.conv2.weight)
    x = torch.rand(1, 4, 5, 5, 5)  # positive, so the last LeakyReLU changes nothing
    torch.testing.assert_close(unit(x), x)
    assert not torch.allclose(Unit("vanilla", "batch", 4, 4).eval()(x), x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pools": 0},
        {"pools": 5},
        {"structures": ("a", "a")},
        {"structures": ()},
        {"channels": (4, 4, 0, 4)},
        {"colour": 1},
    ],
)
def test_wrong_configurations(wrong):
    with pytest.raises(ValidationError):
        AnatomyNetConfig(**{"structures": ("a",), **wrong})
