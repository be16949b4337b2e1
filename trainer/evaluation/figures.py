"""Pictures of an evaluation, in the colours of the paper's figures 3 to 6: truth green, prediction red, both yellow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from numpy.typing import NDArray
from scipy import ndimage

from contourd.contour.pictures import WINDOW_HU
from contourd.imaging.grid import FloatArray
from contourd.imaging.volume import Volume
from trainer.evaluation.surfaces import marching_cubes

GREEN = (0.1, 0.75, 0.2)
RED = (0.9, 0.15, 0.1)
YELLOW = (1.0, 0.85, 0.1)
OPACITY = 0.55
MARGIN_MM = 30.0
FINEST_MM = 1.5
Mask = NDArray[np.bool_]


def overlay(plane_hu: NDArray[np.int16], truth: Mask, predicted: Mask) -> FloatArray:
    """Colour one plane (rows, columns): truth alone green, prediction alone red, both yellow; RGB 0 to 1."""
    low, high = WINDOW_HU
    grey = np.clip((plane_hu - low) / (high - low), 0, 1).astype(np.float64)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    for mask, colour in ((truth & ~predicted, GREEN), (predicted & ~truth, RED), (truth & predicted, YELLOW)):
        picture[mask] = (1 - OPACITY) * picture[mask] + OPACITY * np.array(colour)
    return picture


def largest_slice(mask: Mask, axis: int) -> int:
    """Return the plane across an axis on which a mask has its largest area; the middle one where it is empty."""
    others = tuple(a for a in range(3) if a != axis)
    areas = mask.sum(axis=others)
    return int(np.argmax(areas)) if areas.any() else mask.shape[axis] // 2


def organ_figure(volume: Volume, truth: Mask, predicted: Mask, title: str) -> Figure:
    """Draw one organ of one case: axial, coronal and sagittal at its largest area, and both surfaces in space.

    Parameters
    ----------
    truth, predicted
        bool (z, y, x) on the volume's grid; the slice is that of the truth, or of the prediction where there is none.

    Raises
    ------
    DatasetError
        scikit-image is not installed.
    """
    canonical, turn = volume.grid.canonical()
    hu, truth, predicted = turn.apply(volume.hu), turn.apply(truth), turn.apply(predicted)
    dz, dy, dx = canonical.spacing_mm
    shown = truth if truth.any() else predicted
    k, j, i = (largest_slice(shown, axis) for axis in range(3))
    figure = Figure(figsize=(13, 3.6))
    FigureCanvasAgg(figure)
    planes = (
        ("axial", 0, k, dy, dx),
        ("coronal", 1, j, dz, dx),
        ("sagittal", 2, i, dz, dy),
    )
    for column, (name, axis, index, down, across) in enumerate(planes, 1):
        axes = figure.add_subplot(1, 4, column)
        plane, a, b = (np.take(array, index, axis) for array in (hu, truth, predicted))
        rows, columns = _window(a | b, (down, across))
        picture = overlay(plane, a, b)[rows, columns]
        axes.imshow(picture if axis == 0 else picture[::-1], aspect=down / across, interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    space = figure.add_subplot(1, 4, 4, projection="3d")
    assert isinstance(space, Axes3D)
    draw_surfaces(space, ((truth, GREEN), (predicted, RED)), (dz, dy, dx))
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    return figure


def _window(mask: Mask, spacing_mm: tuple[float, float]) -> tuple[slice, slice]:
    """Cut a plane to what is drawn on it and a margin; all of it where nothing is."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    margins = [int(MARGIN_MM / s) for s in spacing_mm]
    rows, columns = (
        slice(max(0, p.start - m), min(n, p.stop + m)) for p, m, n in zip(found[0], margins, mask.shape, strict=True)
    )
    return rows, columns


def draw_surfaces(
    axes: Axes3D, parts: Sequence[tuple[Mask, tuple[float, float, float]]], spacing_mm: tuple[float, float, float]
) -> None:
    """Draw the surfaces of masks (z, y, x) seen from the front and a little from the left; the head is up.

    Raises
    ------
    DatasetError
        scikit-image is not installed.
    """
    steps = tuple(max(1, round(FINEST_MM / s)) for s in spacing_mm)
    corners = []
    for mask, colour in parts:
        coarse = np.pad(mask[:: steps[0], :: steps[1], :: steps[2]], 1)
        if not coarse.any():
            continue
        spacing = tuple(s * n for s, n in zip(spacing_mm, steps, strict=True))
        triangles = marching_cubes(coarse.astype(np.float64), spacing)[:, :, ::-1]  # (n, 3, 3), the last (x, y, z)
        surface = Poly3DCollection(
            triangles, facecolors=[colour], alpha=0.45, shade=True, lightsource=LightSource(azdeg=300, altdeg=50)
        )
        axes.add_collection3d(surface)
        corners.append(triangles.reshape(-1, 3))
    if corners:
        every = np.concatenate(corners)
        low, high = every.min(axis=0), every.max(axis=0)
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        axes.set_zlim(low[2], high[2])
        axes.set_box_aspect(np.maximum(high - low, 1.0))
    axes.view_init(elev=12, azim=-70)
    axes.set_axis_off()


def legend() -> Figure:
    """Draw the key of the colours."""
    figure = Figure(figsize=(6, 0.4))
    FigureCanvasAgg(figure)
    named = ((GREEN, "clinic's contour alone"), (RED, "model alone"), (YELLOW, "both"))
    figure.legend(handles=[Patch(color=c, label=text) for c, text in named], loc="center", ncols=3, frameon=False)
    return figure


def distribution_figure(scores: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Draw a box per organ with every case as a point."""
    figure = Figure(figsize=(max(6.0, 1.2 * len(scores)), 4))
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    axes.boxplot(list(scores.values()), tick_labels=list(scores), showfliers=False, widths=0.5)
    rng = np.random.default_rng(0)
    for place, values in enumerate(scores.values(), 1):
        axes.scatter(place + rng.uniform(-0.12, 0.12, len(values)), values, s=12, alpha=0.6, color="#0b57d0")
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(axis="x", rotation=20)
    return figure
