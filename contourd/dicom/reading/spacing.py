"""Where slices lie along the patient: the same place twice, missing slices, and spacing that is unequal on purpose.

Steps between neighbours that are nearly alike make a block; three alike are a block that somebody chose, as in a
series of 2 mm through the head and 4 mm below. Fewer are a lone step, and a slice is missing in one that is half as
long again as the longer step of the blocks on either side. A block whose step is a whole multiple of the finest
block's may also be one that lost slices: it is taken for a choice only where the scanner numbered its slices on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SAME_POSITION_MM = 0.01
SPACING_TOLERANCE = 0.01
# Two positions with two decimals each.
SPACING_TOLERANCE_MM = 0.02
ALIKE = 1.2
GAP = 1.5
FEWEST_STEPS = 3


def missing_positions_mm(positions_mm: Sequence[float], numbers: Sequence[int | None] = ()) -> tuple[float, ...]:
    """Name the slice positions that are missing between the given ones, in any order and with repeats.

    Parameters
    ----------
    numbers
        InstanceNumber of each; without them no block that may have lost slices is taken for a choice.
    """
    order = np.argsort(positions_mm, kind="stable")
    positions, kept = _distinct([positions_mm[i] for i in order])
    if len(positions) < 3:
        return ()
    numbered = [numbers[order[i]] for i in kept] if numbers else [None] * len(kept)
    steps = np.diff(positions)
    missing: list[float] = []
    for low, gap, step in zip(positions[:-1], steps, _expected_mm(steps, numbered), strict=True):
        if gap >= GAP * step:
            parts = round(gap / step)
            missing.extend(float(low + gap * i / parts) for i in range(1, parts))
    return tuple(missing)


def crowded_positions_mm(positions_mm: Sequence[float]) -> tuple[float, float] | None:
    """Name two distinct neighbours that lie much closer together than the slices around them, if there are any."""
    positions, _ = _distinct(sorted(positions_mm))
    steps = np.diff(positions)
    blocks, lone = _blocks(steps)
    for i in lone:
        around = [float(np.median(steps[b])) for b in _adjacent(blocks, i)] or [float(np.median(steps))]
        if steps[i] * GAP <= min(around):
            return float(positions[i]), float(positions[i + 1])
    return None


def _distinct(ordered_mm: Sequence[float]) -> tuple[FloatArray, list[int]]:
    """Drop what lies where its neighbour lies; returns the positions and their indices."""
    kept: list[int] = []
    for i, position in enumerate(ordered_mm):
        if not kept or position - ordered_mm[kept[-1]] > SAME_POSITION_MM:
            kept.append(i)
    return np.array([ordered_mm[i] for i in kept], dtype=np.float64), kept


def _blocks(steps: FloatArray) -> tuple[list[slice], list[int]]:
    """Part the steps into blocks of like ones, and the lone steps that are in none."""
    cuts = [i + 1 for i, (a, b) in enumerate(pairwise(steps)) if max(a, b) > ALIKE * min(a, b)]
    parts = [slice(a, b) for a, b in pairwise([0, *cuts, len(steps)])]
    blocks = [part for part in parts if part.stop - part.start >= FEWEST_STEPS]
    lone = [i for part in parts if part not in blocks for i in range(part.start, part.stop)]
    return blocks, lone


def _adjacent(blocks: Sequence[slice], i: int) -> list[slice]:
    before, after = [b for b in blocks if b.stop <= i], [b for b in blocks if b.start > i]
    return before[-1:] + after[:1]


def _expected_mm(steps: FloatArray, numbers: Sequence[int | None]) -> FloatArray:
    """Return how long each step would be if no slice were missing in it."""
    blocks, lone = _blocks(steps)
    smallest = float(np.median(steps[steps < GAP * steps.min()]))
    if not blocks:
        return np.full(len(steps), smallest if _are_multiples(steps, smallest) else float(np.median(steps)))
    crowded = any(steps[i] * GAP <= min(np.median(steps[b]) for b in _adjacent(blocks, i)) for i in lone)
    if crowded and _are_multiples(steps, smallest):
        # Most slices may be missing, so that those which are left are the exception.
        return np.full(len(steps), smallest)
    expected = steps.copy()
    finest = min(float(np.median(steps[b])) for b in blocks)
    for block in blocks:
        own = steps[block]
        if np.median(own) >= GAP * finest and _are_multiples(own, finest):
            doubtful = [not _are_numbered_on(a, b) for a, b in pairwise(numbers[block.start : block.stop + 1])]
            expected[block] = np.where(doubtful, finest, own)
    for i in lone:
        expected[i] = max(float(np.median(steps[b])) for b in _adjacent(blocks, i))
    return expected


def _are_numbered_on(number: int | None, following: int | None) -> bool:
    return number is not None and following is not None and abs(following - number) == 1


def _are_multiples(steps: FloatArray, unit: float) -> bool:
    multiples = np.maximum(np.rint(steps / unit), 1)
    return bool(
        np.all(np.abs(steps - multiples * unit) <= multiples * max(SPACING_TOLERANCE * unit, SPACING_TOLERANCE_MM))
    )
