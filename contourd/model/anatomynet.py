"""AnatomyNet: a 3D U-Net of squeeze-and-excitation residual units for whole head-and-neck CT volumes.

Zhu et al., "AnatomyNet", Medical Physics 2018 (arXiv 1808.05238), Figure 1 and Tables II and IV. Every variant of the
tables is a value of :class:`AnatomyNetConfig`, never a subclass.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from contourd.model.blocks import BlockKind, NormKind, Skip, SkipKind, Unit
from contourd.model.folding import folded
from contourd.model.network import Network, NetworkConfig

PAPER_CHANNELS = (28, 30, 32, 34)
UNITS_PER_STAGE = 2
# A stage of so many channels takes some 50 MB of weights; a bundle that claims more is no network of this kind.
MOST_CHANNELS = 256
Width = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]


class AnatomyNetConfig(NetworkConfig):
    """What fixes the network's layers and so its weights.

    pools
        Down-samplings, 1 to 4 (Table II). 1 is AnatomyNet: everything between stem and output block at half resolution.
    channels
        Of the stem and the three encoder stages.
    output_channels
        Kernels of the output block at full resolution.
    """

    pools: int = Field(default=1, ge=1, le=4)
    block: BlockKind = "se_residual"
    skip: SkipKind = "concat"
    norm: NormKind = "instance"
    channels: tuple[Width, Width, Width, Width] = PAPER_CHANNELS
    output_channels: Width = 16

    @property
    def supervised_channels(self) -> tuple[int, ...]:
        """Channels of the decoder's stages, from the coarsest on."""
        return self.channels[2::-1]

    def in_words(self) -> str:
        """Name the source and the variant."""
        return (
            f"AnatomyNet (Zhu et al., *Medical Physics* 2019) with {self.pools} down-sampling{'s' * (self.pools > 1)}, "
            f"{self.block.replace('_', ' ')} units, {self.skip} skips, {self.norm} normalisation, "
            f"channels {', '.join(map(str, self.channels))}"
        )


def _stage(config: AnatomyNetConfig, in_channels: int, out_channels: int) -> nn.Sequential:
    widths = [in_channels] + [out_channels] * UNITS_PER_STAGE
    return nn.Sequential(*(Unit(config.block, config.norm, a, b) for a, b in pairwise(widths)))


def _down(stage: int, pools: int) -> int:
    """Stride before encoder stage 1, 2 or 3: the stem is the first of ``pools`` down-samplings."""
    return 2 if stage < pools else 1


class AnatomyNet(Network):
    """Map a CT volume (B, 1, D, H, W) to logits (B, C, D, H, W), C = organs + 1, at the same resolution.

    Any D, H, W from 1 on: up-sampled features are cut to the size of what they join.
    """

    configuration = AnatomyNetConfig
    stride = 2
    organ_weights = ("classify.",)
    config: AnatomyNetConfig

    def __init__(self, config: AnatomyNetConfig) -> None:
        super().__init__(config)
        c0, c1, c2, c3 = config.channels
        self.stem = nn.Conv3d(1, c0, 3, stride=2, padding=1)
        self.encoder = nn.ModuleList([_stage(config, c0, c1), _stage(config, c1, c2), _stage(config, c2, c3)])
        strides = [_down(stage, config.pools) for stage in (1, 2, 3)]
        self.down = nn.ModuleList([nn.Identity() if s == 1 else nn.MaxPool3d(2, ceil_mode=True) for s in strides])
        wide = c3
        joins = []
        decoder = []
        up = []
        for stride, features in zip(reversed(strides), (c2, c1, c0), strict=True):
            up.append(nn.Identity() if stride == 1 else nn.ConvTranspose3d(wide, wide, 2, stride=2))
            joins.append(Skip(config.skip, wide, features))
            decoder.append(_stage(config, joins[-1].out_channels, features))
            wide = features
        self.up = nn.ModuleList(up)
        self.joins = nn.ModuleList(joins)
        self.decoder = nn.ModuleList(decoder)
        self.expand = nn.ConvTranspose3d(wide, wide, 2, stride=2)
        self.output = nn.Conv3d(wide + 1, config.output_channels, 3, padding=1)
        self.classify = nn.Conv3d(config.output_channels, config.classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Map image (B, 1, D, H, W) to logits (B, C, D, H, W)."""
        return self.at_full_resolution(self.decoded(image)[-1], image)

    def decoded(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the features of each decoder stage, the last (B, c0, D/2, H/2, W/2), those before it no finer."""
        x = self.stem(image)  # (B, c0, D/2, H/2, W/2)
        skips = []
        for down, stage in zip(self.down, self.encoder, strict=True):
            skips.append(x)
            x = stage(down(x))
        modules = zip(self.up, self.joins, self.decoder, reversed(skips), strict=True)
        features = []
        for up, join, stage, skip in modules:
            x = stage(join(_cut(up(x), skip), skip))
            features.append(x)
        return tuple(features)

    def at_full_resolution(self, features: Tensor, image: Tensor) -> Tensor:
        """Map the last stage's features and the image to logits (B, C, D, H, W)."""
        x = _cut(self.expand(features), image)  # (B, c0, D, H, W)
        x = torch.cat([x, image], dim=1)
        x = nn.functional.leaky_relu(self.output(x), 0.01)
        return self.classify(x)  # type: ignore[no-any-return]

    def for_inference(self) -> Self:
        """Return a copy without the excitations that are constant."""
        return folded(self)


def _cut(x: Tensor, like: Tensor) -> Tensor:
    d, h, w = like.shape[2:]
    return x[:, :, :d, :h, :w]


def parameter_count(network: nn.Module) -> int:
    """Count the trained weights."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
