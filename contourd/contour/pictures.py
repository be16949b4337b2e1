"""Contours over the CT on axial, coronal and sagittal slices: people would rather look than read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from contourd.imaging.grid import Box
from contourd.imaging.volume import Volume
from contourd.model.structures import colour_of

WINDOW_HU = (-160, 240)
AXIAL_SLICES = 3
MARGIN_MM = 55.0
BACKGROUND = "#101418"
Masks = Mapping[str, NDArray[np.bool_]]


def draw_contours(volume: Volume, masks: Masks, path: Path, title: str = "") -> None:
    """Write a PNG with three axial, one coronal and one sagittal slice, in the radiological view.

    The slices are those on which most organs show; the patient's right is on the left of the picture.

    Parameters
    ----------
    volume
        A CT of any axial orientation.
    masks
        ROI name -> bool (z, y, x) on the volume's grid.
    """
    canonical, turn = volume.grid.canonical()
    dy, dx = canonical.pixel_spacing_mm
    shown = {name: turn.apply(mask) for name, mask in masks.items() if mask.any()}
    box = _around(shown, canonical.shape, (dy, dx))
    hu, shown = turn.apply(volume.hu)[box], {name: mask[box] for name, mask in shown.items()}
    figure = Figure(figsize=(15, 10.5), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 6, left=0.02, right=0.98, bottom=0.09, top=0.93, wspace=0.08, hspace=0.12)
    z = canonical.slice_origins_mm[:, 2]
    for column, k in enumerate(axial_levels(shown, hu.shape[0])):
        axes = figure.add_subplot(grid[0, 2 * column : 2 * column + 2])
        _plane(axes, hu[k], {n: m[k] for n, m in shown.items()}, dy / dx, "RLAP", f"axial  z = {z[k]:.1f} mm")
    y, x = best_plane(shown, 1, hu.shape[1]), best_plane(shown, 2, hu.shape[2])
    upwards, dz = canonical.even_slices()
    down = upwards[::-1]
    upside_down = {n: m[down] for n, m in shown.items()}
    axes = figure.add_subplot(grid[1, 0:3])
    _plane(axes, hu[down, y], {n: m[:, y] for n, m in upside_down.items()}, dz / dx, "RLHF", "coronal")
    axes = figure.add_subplot(grid[1, 3:6])
    _plane(axes, hu[down, :, x], {n: m[:, :, x] for n, m in upside_down.items()}, dz / dy, "APHF", "sagittal")
    volumes = {n: canonical.volume_mm3(m) / 1000 for n, m in shown.items()}
    handles = [Line2D([], [], color=colour_of(n), lw=3, label=f"{n}  {volumes[n]:.1f} cc") for n in shown]
    figure.legend(handles=handles, loc="lower center", ncols=4, labelcolor="white", frameon=False, fontsize=11)
    figure.suptitle(title, color="white", fontsize=13)
    figure.savefig(path, dpi=100, facecolor=BACKGROUND)


def _around(masks: Masks, shape: tuple[int, int, int], pixel_spacing_mm: tuple[float, float]) -> Box:
    """Cut rows and columns to the organs and a margin around them."""
    parts = []
    for axis, (length, step) in enumerate(zip(shape[1:], pixel_spacing_mm, strict=True), 1):
        others = tuple(a for a in range(3) if a != axis)
        used = (
            np.flatnonzero(np.any([m.any(axis=others) for m in masks.values()], axis=0)) if masks else np.arange(length)
        )
        margin = int(MARGIN_MM / step)
        parts.append(slice(max(int(used[0]) - margin, 0), min(int(used[-1]) + margin + 1, length)))
    return slice(None), parts[0], parts[1]


def axial_levels(masks: Masks, slices: int) -> list[int]:
    """Choose slices from head to feet: in each third of the organs' extent the one that shows most organs, largest."""
    if not masks:
        return [slices * i // 4 for i in (3, 2, 1)]
    areas = np.stack([m.sum(axis=(1, 2)) for m in masks.values()])  # (organs, slices)
    score = (areas > 0).sum(axis=0) + (areas / areas.max(axis=1, keepdims=True)).sum(axis=0) / len(areas)
    used = np.flatnonzero(areas.any(axis=0))
    thirds = np.array_split(used, AXIAL_SLICES) if len(used) >= AXIAL_SLICES else [used] * AXIAL_SLICES
    return [int(third[np.argmax(score[third])]) for third in reversed(thirds)]


def best_plane(masks: Masks, axis: int, length: int) -> int:
    """Choose the plane across an axis that shows most organs, and of those the one with the largest parts of them."""
    if not masks:
        return length // 2
    others = tuple(a for a in range(3) if a != axis)
    areas = np.stack([m.sum(axis=others) for m in masks.values()])
    score = (areas > 0).sum(axis=0) + (areas / areas.max(axis=1, keepdims=True)).sum(axis=0) / len(areas)
    return int(np.argmax(score))


def _plane(axes: Axes, plane: NDArray[np.int16], masks: Masks, aspect: float, marks: str, title: str) -> None:
    """Draw one plane; ``marks`` are the letters at the left, right, top and bottom edge."""
    axes.imshow(plane, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=aspect, interpolation="bilinear")
    for name, mask in masks.items():
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[colour_of(name)], linewidths=1.6)
    for letter, (u, v) in zip(marks, ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True):
        axes.text(u, v, letter, color="#ffd040", fontsize=13, ha="center", va="center", transform=axes.transAxes)
    axes.set_title(title, color="white", fontsize=11)
    axes.set_axis_off()
