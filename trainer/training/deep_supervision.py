"""Deep supervision: the decoder's coarser stages answer too, through layers that only training has.

The paper's limits name the missing multi-resolution output; Lee et al., "Deeply-supervised nets", AISTATS 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from contourd.model.network import Network
from trainer.training.losses import Loss


class Supervised(nn.Module):
    """A network whose loss is computed inside, so that DistributedDataParallel sees one forward.

    Parameters
    ----------
    weight
        Of the mean of the coarser stages' losses; 0: there are none, and no layers for them.
    """

    def __init__(self, network: Network, weight: float) -> None:
        super().__init__()
        self.network = network
        self.weight = weight
        channels = network.config.supervised_channels if weight else ()
        self.heads = nn.ModuleList([nn.Conv3d(c, network.config.classes, 1) for c in channels])

    def forward(self, image: Tensor, target: Tensor, annotated: Tensor, weights: Tensor, loss: Loss) -> Tensor:
        """Return the loss of a batch: image (B, 1, D, H, W), target (B, C, D, H, W), annotated (B, C), weights (C,)."""
        features = self.network.decoded(image)
        logits = self.network.at_full_resolution(features[-1], image).float()
        value = loss(logits, target, annotated, weights)
        if not self.weight:
            return value
        coarser = [
            loss(head(x).float(), shrunk(target, x.shape[2:]), annotated, weights)
            for head, x in zip(self.heads, features, strict=True)
        ]
        return value + self.weight * torch.stack(coarser).mean()


def shrunk(target: Tensor, shape: torch.Size) -> Tensor:
    """Average a target (B, C, D, H, W) over 2 x 2 x 2 voxels until it has a coarser stage's shape (d, h, w).

    A voxel at the end of an odd side stands for what there is of it.
    """
    while target.shape[2:] != shape:
        target = functional.avg_pool3d(target, [min(2, side) for side in target.shape[2:]], ceil_mode=True)
    return target
