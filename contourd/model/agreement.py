"""Whether the network says the same of an organ from several lattices, and says it clearly.

Where two lattices that lie half a voxel beside each other find an organ in different places, or only one of them finds
it, their mean is no organ; nor is a probability that stays near the level at which the contour is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.grid import Box, within
from contourd.model.remarks import LEVEL as LEVEL
from contourd.model.remarks import UNDECIDED, Finding, Measure, RemarkCheck

# In ten of the OpenKBP validation patients the least Dice was 0.56 (an oesophagus of 102 voxels), and the largest
# undecided part 0.27.
LEAST_DICE, MOST_UNDECIDED = 0.5, 0.5


@dataclass(frozen=True, slots=True)
class LatticeAgreement:
    """How one organ's answers agree.

    Attributes
    ----------
    dice
        The least Dice of two lattices' masks on the CT's grid; 1 of a single lattice, and where none finds the organ.
    found, lattices
        How many of the lattices find it.
    undecided
        Part of the voxels of the organ, and of those nearly of it, whose mean probability is near the level; 0 without.
    """

    dice: float
    found: int
    lattices: int
    undecided: float


def agreement(
    parts: Sequence[tuple[Box, NDArray[np.float32]]], box: Box, mean: NDArray[np.float32]
) -> LatticeAgreement:
    """Compare the lattices' probabilities with each other, and their mean with the level.

    Parameters
    ----------
    parts
        Of each lattice the box on the CT's own grid, and the probability inside it.
    box, mean
        The box around them, and their mean inside it.
    """
    masks = []
    for inner, probability in parts:
        mask = np.zeros(mean.shape, dtype=bool)
        if probability.size:
            mask[within(inner, box)] = probability >= LEVEL
        masks.append(mask)
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    dice = 1.0
    for other, size in zip(masks[1:], sizes[1:], strict=True):
        if sizes[0] + size:
            dice = min(dice, 2 * int(np.count_nonzero(masks[0] & other)) / (sizes[0] + size))
    nearly = int(np.count_nonzero(mean >= LEVEL - UNDECIDED))
    decided = int(np.count_nonzero(mean > LEVEL + UNDECIDED))
    return LatticeAgreement(dice, sum(size > 0 for size in sizes), len(parts), 1 - decided / nearly if nearly else 0.0)


def disagreement(name: str, found: LatticeAgreement) -> tuple[Finding, ...]:
    """Name an organ whose lattices disagree, or whose probability is a plateau at the level; empty where it is well."""
    if 0 < found.found < found.lattices:
        measure = Measure.LATTICES
        value = float(found.found)
        expected = (float(found.lattices), float(found.lattices))
    elif found.dice < LEAST_DICE:
        measure = Measure.DICE
        value = found.dice
        expected = (LEAST_DICE, 1.0)
    elif found.undecided > MOST_UNDECIDED:
        measure = Measure.UNDECIDED_PART
        value = found.undecided
        expected = (0.0, MOST_UNDECIDED)
    else:
        return ()
    return (Finding(name, RemarkCheck.AGREEMENT, measure, value, expected),)
