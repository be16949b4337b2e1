"""Parts of a volume, around annotated organs more often than not, for devices with little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.training.config import PatchConfig

AIR = -1.0


def cut_patch(
    image: Tensor,
    organs: Tensor,
    spacing_mm: Sequence[float],
    config: PatchConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Cut one patch out of image (d, h, w) and organs (organs, d, h, w); air is added where the volume is smaller.

    Organs of which nothing is known are empty, so they never draw a patch to them. Without a size nothing is cut.
    """
    if config.size_mm is None:
        return image, organs
    size = [max(1, round(mm / step)) for mm, step in zip(config.size_mm, spacing_mm, strict=True)]
    missing = [max(0, n - side) for n, side in zip(size, image.shape, strict=True)]
    if any(missing):
        after = [n for pad in reversed(missing) for n in (0, pad)]
        image = torch.nn.functional.pad(image, after, value=AIR)
        organs = torch.nn.functional.pad(organs, after)
    middle = _middle(organs, config.foreground, rng)
    start = [int(np.clip(m - n // 2, 0, side - n)) for m, n, side in zip(middle, size, image.shape, strict=True)]
    z, y, x = (slice(a, a + n) for a, n in zip(start, size, strict=True))
    return image[z, y, x], organs[:, z, y, x]


def _middle(organs: Tensor, foreground: float, rng: np.random.Generator) -> list[int]:
    there = torch.nonzero(organs.amax(dim=(1, 2, 3)) > 0.5).flatten().tolist()
    if there and rng.random() < foreground:
        inside = torch.nonzero(organs[there[int(rng.integers(len(there)))]] > 0.5)
        return [int(v) for v in inside[int(rng.integers(len(inside)))]]
    return [int(rng.integers(side)) for side in organs.shape[1:]]
