"""Convolution units of AnatomyNet: vanilla, residual and squeeze-and-excitation residual, and the skip connections.

Zhu et al., "AnatomyNet", Medical Physics 2018 (arXiv 1808.05238), section 2.2 and Table IV.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

BlockKind = Literal["vanilla", "residual", "se_residual"]
NormKind = Literal["batch", "instance", "group"]
SkipKind = Literal["concat", "sum"]

LEAKY_SLOPE = 0.01
SE_REDUCTION = 15


def normalisation(kind: NormKind, channels: int) -> nn.Module:
    """Build the normalisation layer for ``channels`` feature maps.

    The paper uses batch normalisation at batch size 1; instance and group norm do not depend on running statistics.
    """
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    groups = next(g for g in (8, 7, 6, 5, 4, 3, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class SqueezeExcitation(nn.Module):
    """Channel weights from global averages: s = sigmoid(W2 G(W1 z)), with G = LeakyReLU."""

    def __init__(self, channels: int, reduction: int = SE_REDUCTION) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel of x (B, C, D, H, W)."""
        z = x.mean(dim=(2, 3, 4))  # (B, C)
        s = torch.sigmoid(self.excite(nn.functional.leaky_relu(self.squeeze(z), LEAKY_SLOPE)))
        return x * s[:, :, None, None, None]  # (B, C, D, H, W)


class Unit(nn.Module):
    """Two 3x3x3 convolutions, F(X) = conv-norm-LeakyReLU-conv-norm, then what ``kind`` adds to them.

    vanilla: Y = G(F(X)); residual: Y = G(F(X) + X); se_residual: Y = G(s * F(X) + X). Where the number of channels
    changes, X passes through a 1x1x1 projection.
    """

    def __init__(self, kind: BlockKind, norm: NormKind, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = normalisation(norm, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = normalisation(norm, out_channels)
        self.excitation = SqueezeExcitation(out_channels) if kind == "se_residual" else None
        self.projection: nn.Module | None = None
        if kind != "vanilla":
            same = in_channels == out_channels
            self.projection = nn.Identity() if same else nn.Conv3d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in, D, H, W) to (B, out, D, H, W)."""
        y = nn.functional.leaky_relu(self.norm1(self.conv1(x)), LEAKY_SLOPE)
        y = self.norm2(self.conv2(y))
        if self.excitation is not None:
            y = self.excitation(y)
        if self.projection is not None:
            y = y + self.projection(x)
        return nn.functional.leaky_relu(y, LEAKY_SLOPE)


class Skip(nn.Module):
    """Join decoder features with the encoder's of the same resolution: concatenated, or summed (Table IV).

    For ``sum`` a 1x1x1 convolution maps the encoder's features where the numbers of channels differ.
    """

    def __init__(self, kind: SkipKind, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.out_channels = channels + skip_channels if kind == "concat" else channels
        mapped = kind == "sum" and channels != skip_channels
        self.mapping = nn.Conv3d(skip_channels, channels, 1, bias=False) if mapped else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join x and skip, both (B, *, D, H, W) of one size."""
        if self.kind == "concat":
            return torch.cat([x, skip], dim=1)
        return x + self.mapping(skip)  # type: ignore[no-any-return]
