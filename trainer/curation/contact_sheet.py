"""A small picture of each case for the report of a curation: its organs' outlines on three planes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from contourd.contour.pictures import WINDOW_HU
from contourd.imaging.volume import Volume
from contourd.model.structures import colour_of

Mask = NDArray[np.bool_]


def contact_sheet(volume: Volume, masks: Mapping[str, Mask]) -> Figure:
    """Draw a case small: axial, coronal and sagittal through its organs, with every organ's outline."""
    canonical, turn = volume.grid.canonical()
    hu = turn.apply(volume.hu)
    shown = {name: turn.apply(mask) for name, mask in masks.items()}
    dz, dy, dx = canonical.spacing_mm
    figure = Figure(figsize=(7.2, 2.4), facecolor="black")
    FigureCanvasAgg(figure)
    for axis, (down, across) in enumerate(((dy, dx), (dz, dx), (dz, dy))):
        axes = figure.add_axes((axis / 3, 0, 1 / 3, 1))
        index = _most_organs(shown, axis, hu.shape[axis])
        order = slice(None) if axis == 0 else slice(None, None, -1)
        plane = np.take(hu, index, axis)[order]
        axes.imshow(plane, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=down / across)
        for name, mask in shown.items():
            cut = np.take(mask, index, axis)[order]
            if cut.any():
                axes.contour(cut, levels=[0.5], colors=[colour_of(name)], linewidths=0.9)
        axes.set_axis_off()
    return figure


def _most_organs(masks: Mapping[str, Mask], axis: int, length: int) -> int:
    """Choose the plane across an axis that shows most organs, and of those the one with the largest parts of them."""
    if not masks:
        return length // 2
    others = tuple(a for a in range(3) if a != axis)
    areas = np.stack([mask.sum(axis=others) for mask in masks.values()])  # (organs, planes)
    return int(np.argmax((areas > 0).sum(axis=0) + (areas / areas.max(axis=1, keepdims=True)).mean(axis=0)))
