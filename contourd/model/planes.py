"""Masks on the planes (rows, columns) of a volume: grown, opened and filled, all planes at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
# Neighbours on a plane that share a side.
IN_PLANE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], dtype=bool)


def opened(planes: Mask, radius: float) -> Mask:
    """Take off on each plane what is thinner than twice a radius in pixels; the field of view's edge is no edge."""
    passes = max(1, round(radius))
    return grown(~grown(~planes, passes), passes)


def grown(planes: Mask, passes: int) -> Mask:
    """Grow the mask on each plane by so many pixels, nearly round: by turns without and with corners."""
    mask = planes
    for n in range(passes):
        before, mask = mask, mask.copy()
        mask[:, 1:] |= before[:, :-1]
        mask[:, :-1] |= before[:, 1:]
        if n % 2:
            before = mask.copy()
        mask[:, :, 1:] |= before[:, :, :-1]
        mask[:, :, :-1] |= before[:, :, 1:]
    return mask


def filled(planes: Mask) -> Mask:
    """Fill the holes of the mask on each plane: all that is not joined to the plane's edge."""
    labels, count = ndimage.label(~planes, IN_PLANE)
    outside = np.zeros(count + 1, dtype=bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[edge] = True
    outside[0] = False
    return np.asarray(~outside[labels])
