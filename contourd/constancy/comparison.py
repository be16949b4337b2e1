"""The contours of today against the baseline's, organ by organ: Dice, the shift of the centroid, and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contourd.commands import command
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import FloatArray, Grid, around, within
from contourd.settings import ConstancySettings
from contourd.store.constancy_result import ModelConstancy, OrganConstancy


@dataclass(frozen=True, slots=True, eq=False)
class ModelContours:
    """What one model made of the reference patient.

    Attributes
    ----------
    model
        As a route names it.
    sha256
        Of the model that really ran, as the structure set tells it.
    seconds
        Of sending, contouring and delivering, without waiting.
    organs
        ROI name -> its voxels on the reference patient's grid.
    """

    model: str
    name: str
    version: str
    sha256: str
    seconds: float
    organs: Mapping[str, MaskInBox]


def compare(
    now: ModelContours, baseline: ModelContours, grid: Grid, limits: ConstancySettings
) -> tuple[ModelConstancy, tuple[str, ...]]:
    """Compare one model's contours with the baseline's.

    Returns
    -------
    The figures, and for each that lies beyond its limit the reason for red.
    """
    reasons = [*_other_model(now, baseline), *_other_organs(now, baseline), *_slower(now, baseline, limits)]
    organs = {
        name: compare_organ(now.organs[name], mask, grid)
        for name, mask in baseline.organs.items()
        if name in now.organs
    }
    for name, organ in organs.items():
        if organ.dice < limits.least_dice:
            reasons.append(f"{now.model}: {name} has Dice {organ.dice:.4f}, at least {limits.least_dice:g} is allowed")
        if organ.shift_mm is not None and organ.shift_mm > limits.largest_shift_mm:
            moved = f"{organ.shift_mm:.2f} mm, at most {limits.largest_shift_mm:g} mm are allowed"
            reasons.append(f"{now.model}: the centroid of {name} moved by {moved}")
    result = ModelConstancy(
        model=now.model,
        name=now.name,
        version=now.version,
        sha256=now.sha256,
        seconds=round(now.seconds, 2),
        baseline_seconds=round(baseline.seconds, 2),
        organs=organs,
    )
    return result, tuple(reasons)


def compare_organ(now: MaskInBox, then: MaskInBox, grid: Grid) -> OrganConstancy:
    """Compare two masks of one organ; two that are empty are alike, and of one that is empty no shift is told."""
    box = around(now.box, then.box)
    shape = [part.stop - part.start for part in box]
    a, b = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for whole, part in ((a, now), (b, then)):
        if part.mask.size:
            whole[within(part.box, box)] = part.mask
    voxels = np.count_nonzero(a) + np.count_nonzero(b)
    dice = 2 * np.count_nonzero(a & b) / voxels if voxels else 1.0
    if not a.any() or not b.any():
        return OrganConstancy(dice=dice, shift_mm=None)
    return OrganConstancy(dice=dice, shift_mm=float(np.linalg.norm(centroid_mm(now, grid) - centroid_mm(then, grid))))


def centroid_mm(organ: MaskInBox, grid: Grid) -> FloatArray:
    """Return the mean place of an organ's voxels in patient coordinates (x, y, z)."""
    index = np.argwhere(organ.mask) + [part.start for part in organ.box]
    return np.asarray(grid.to_patient(index.astype(np.float64)).mean(axis=0))


def other_model(model: str, sha256: str, baseline_sha256: str) -> str:
    """Return that a model is not the baseline's, with the remedy."""
    return (
        f"{model} is another model than the baseline's (sha256 {sha256[:12]}, not {baseline_sha256[:12]}); "
        f"if it was changed on purpose, accept it and make a new baseline: {command('constancy baseline')}"
    )


def _other_model(now: ModelContours, baseline: ModelContours) -> list[str]:
    return [other_model(now.model, now.sha256, baseline.sha256)] if now.sha256 != baseline.sha256 else []


def _other_organs(now: ModelContours, baseline: ModelContours) -> list[str]:
    gone = [name for name in baseline.organs if name not in now.organs]
    new = [name for name in now.organs if name not in baseline.organs]
    differences = [f"{now.model}: {', '.join(gone)} not found, and in the baseline it was"] if gone else []
    return differences + ([f"{now.model}: {', '.join(new)} found, and in the baseline it was not"] if new else [])


def _slower(now: ModelContours, baseline: ModelContours, limits: ConstancySettings) -> list[str]:
    allowed_s = limits.time_factor * baseline.seconds
    if now.seconds <= allowed_s:
        return []
    took = f"{now.seconds:.1f} s, and the baseline {baseline.seconds:.1f} s"
    return [f"{now.model}: it took {took}; at most {limits.time_factor:g} times as long is allowed"]
