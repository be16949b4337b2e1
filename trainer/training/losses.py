"""The losses, masked and weighted for organs that nobody annotated.

Zhu et al. (arXiv 1808.05238), section 2.3 and equation 3; the marginal background is Shi et al., "Marginal loss and
exclusion loss for partially supervised multi-organ segmentation", MedIA 2021.

One signature: ``loss(logits, target, annotated, weights) -> scalar`` with logits and target (B, C, D, H, W), channel 0
the background and target the part of each voxel that a class fills, annotated (B, C) bool and weights (C,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-6
SMOOTH_VOXELS = 1.0
SPATIAL = (2, 3, 4)

Term = Callable[[Tensor, Tensor], Tensor]


def dice_term(probability: Tensor, target: Tensor) -> Tensor:
    """1 - Dice per image and class, (B, C): Tversky with alpha = beta = 0.5.

    One voxel of smoothing keeps an organ that is annotated and absent defined: nothing predicted costs nothing.
    """
    overlap = (probability * target).sum(SPATIAL)
    total = probability.sum(SPATIAL) + target.sum(SPATIAL)
    return 1 - (2 * overlap + SMOOTH_VOXELS) / (total + SMOOTH_VOXELS)


def exp_log_term(probability: Tensor, target: Tensor) -> Tensor:
    """(-ln Dice)^0.3 per image and class, (B, C)."""
    dice = 1 - dice_term(probability, target)
    return (-torch.log(dice.clamp(EPSILON, 1 - EPSILON))) ** 0.3


def focal_term(probability: Tensor, target: Tensor) -> Tensor:
    """-(1/N) sum_n g (1 - p)^2 log p per image and class, (B, C)."""
    p = probability.clamp(min=EPSILON)
    return -(target * (1 - p) ** 2 * torch.log(p)).mean(SPATIAL)


def cross_entropy_term(probability: Tensor, target: Tensor) -> Tensor:
    """-(1/N) sum_n g log p per image and class, (B, C)."""
    return -(target * torch.log(probability.clamp(min=EPSILON))).mean(SPATIAL)


def balanced_focal_term(probability: Tensor, target: Tensor) -> Tensor:
    """Focal loss as a mean over the voxels of each class instead of the whole volume, (B, C).

    A small organ that the network does not see yet keeps a gradient, which Dice and the focal term hardly give it.
    """
    p = probability.clamp(min=EPSILON)
    summed = -(target * (1 - p) ** 2 * torch.log(p)).sum(SPATIAL)
    return summed / (target.sum(SPATIAL) + 100 * SMOOTH_VOXELS)


def _hybrid(lambda_: float, second: Term) -> Term:
    return lambda p, g: dice_term(p, g) + lambda_ * second(p, g)


# Name -> term for a given lambda.
LOSSES: Mapping[str, Callable[[float], Term]] = MappingProxyType(
    {
        "dice": lambda lambda_: dice_term,
        "exp_log": lambda lambda_: exp_log_term,
        "dice_focal": lambda lambda_: _hybrid(lambda_, focal_term),
        "dice_ce": lambda lambda_: _hybrid(lambda_, cross_entropy_term),
        "dice_focal_balanced": lambda lambda_: _hybrid(lambda_, balanced_focal_term),
    }
)


class Loss:
    """One of LOSSES with its treatment of missing annotations.

    mask
        The terms of an unannotated organ are left out, and the background's unless every organ is annotated (m_i(0)).
    marginal
        The terms of an unannotated organ are left out; its probability is added to the background's.
    """

    def __init__(self, name: str, lambda_: float = 0.5, missing: Literal["mask", "marginal"] = "mask") -> None:
        self.term = LOSSES[name](lambda_)
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
