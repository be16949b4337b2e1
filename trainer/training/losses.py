"""The losses, masked and weighted for organs that nobody annotated.

Zhu et al. (arXiv 1808.05238), section 2.3 and equation 3; the marginal background is Shi et al., "Marginal loss and
exclusion loss for partially supervised multi-organ segmentation", MedIA 2021.

One signature: ``loss(logits, target, annotated, weights) -> scalar`` with logits and target (B, C, D, H, W), channel 0
the background and target the part of each voxel that a class fills, annotated (B, C) bool and weights (C,).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer.training.chosen import Parameters

EPSILON = 1e-6
SMOOTH_VOXELS = 1.0
SPATIAL = (2, 3, 4)


class Term(Parameters):
    """A loss with its parameters; called with what is predicted and what is there, (B, C, D, H, W) both."""

    @abstractmethod
    def __call__(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return its value per image and class, (B, C)."""


class Dice(Term):
    """1 - Dice: Tversky with alpha = beta = 0.5.

    One voxel of smoothing keeps an organ that is annotated and absent defined: nothing predicted costs nothing.
    """

    def __call__(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per image and class, (B, C)."""
        overlap = (probability * target).sum(SPATIAL)
        total = probability.sum(SPATIAL) + target.sum(SPATIAL)
        return 1 - (2 * overlap + SMOOTH_VOXELS) / (total + SMOOTH_VOXELS)


class ExpLog(Dice):
    """(-ln Dice)^exponent."""

    exponent: float = Field(default=0.3, gt=0)

    def __call__(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per image and class, (B, C)."""
        dice = 1 - super().__call__(probability, target)
        return (-torch.log(dice.clamp(EPSILON, 1 - EPSILON))) ** self.exponent


class _Hybrid(Dice):
    """1 - Dice + lambda times a second term."""

    lambda_: float = Field(default=0.5, ge=0, alias="lambda")

    def __call__(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per image and class, (B, C)."""
        return super().__call__(probability, target) + self.lambda_ * self.second(probability, target)

    @abstractmethod
    def second(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return the second term per image and class, (B, C)."""


class DiceCrossEntropy(_Hybrid):
    """With -(1/N) sum_n g log p."""

    def second(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per image and class, (B, C)."""
        return -(target * torch.log(probability.clamp(min=EPSILON))).mean(SPATIAL)


class DiceFocal(_Hybrid):
    """With -(1/N) sum_n g (1 - p)^gamma log p."""

    gamma: float = Field(default=2.0, ge=0)

    def second(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per image and class, (B, C)."""
        return self.focal(probability, target).mean(SPATIAL)

    def focal(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per voxel, (B, C, D, H, W)."""
        p = probability.clamp(min=EPSILON)
        return -(target * (1 - p) ** self.gamma * torch.log(p))


class DiceFocalBalanced(DiceFocal):
    """With the focal term as a mean over the voxels of each class instead of the whole volume.

    A small organ that the network does not see yet keeps a gradient, which Dice and the focal term hardly give it.
    """

    def second(self, probability: Tensor, target: Tensor) -> Tensor:
        """Return it per image and class, (B, C)."""
        return self.focal(probability, target).sum(SPATIAL) / (target.sum(SPATIAL) + 100 * SMOOTH_VOXELS)


# As a recipe names them.
LOSSES: Mapping[str, type[Term]] = MappingProxyType(
    {
        "dice": Dice,
        "exp_log": ExpLog,
        "dice_focal": DiceFocal,
        "dice_ce": DiceCrossEntropy,
        "dice_focal_balanced": DiceFocalBalanced,
    }
)


class Loss:
    """A term with its treatment of missing annotations.

    mask
        The terms of an unannotated organ are left out, and the background's unless every organ is annotated (m_i(0)).
    marginal
        The terms of an unannotated organ are left out; its probability is added to the background's.
    """

    def __init__(self, term: Term, missing: Literal["mask", "marginal"] = "mask") -> None:
        self.term = term
        self.missing = missing

    def __call__(self, logits: Tensor, target: Tensor, annotated: Tensor, weights: Tensor) -> Tensor:
        """Return sum_c w(c) m(c) L(c), averaged over the images; zero where nothing is annotated."""
        probability = torch.softmax(logits, dim=1)
        known = annotated[:, :, None, None, None]
        target = torch.where(known, target, 0)
        if self.missing == "marginal":
            some = annotated[:, 1:].any(dim=1, keepdim=True)
            organs = torch.where(known[:, 1:], probability[:, 1:], 0)
            # 1 - known organs = background + unknown ones.
            probability = torch.cat([1 - organs.sum(1, keepdim=True), organs], dim=1)
            target = torch.cat([(1 - target[:, 1:].sum(1, keepdim=True)).clamp(min=0), target[:, 1:]], dim=1)
            annotated = torch.cat([some, annotated[:, 1:]], dim=1)
        else:
            annotated = torch.cat([annotated[:, 1:].all(dim=1, keepdim=True), annotated[:, 1:]], dim=1)
        terms = self.term(probability, target)  # (B, C)
        return torch.where(annotated, terms * weights, 0).sum(dim=1).mean()


def class_weights(annotated: Tensor) -> Tensor:
    """Equation 3's w(c) = 1 / sum_i m_i(c), scaled to mean 1 over the classes that are annotated anywhere.

    Parameters
    ----------
    annotated
        bool (images, C).
    """
    counts = annotated.sum(dim=0).float()
    weights = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
    return weights / weights[counts > 0].mean() if bool((counts > 0).any()) else weights
