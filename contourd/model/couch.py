"""A couch in a CT, and whatever lies behind its surface: board, trough or base plate, massive or a shell around foam.

It is known by a cross-section that stays the same along the patient, wide and thin, with an even surface on which the
patient lies. Seen in one stretch of the slices, where head and neck do not touch it, it is taken off wherever it is
still seen, and between those slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.imaging.grid import FloatArray
from contourd.model.planes import Mask, filled

# A couch keeps its cross-section over this length, is at least so wide, and at most so thick on the mean.
COUCH_LENGTH_MM = 100.0
COUCH_WIDTH_MM = 180.0
COUCH_THICKNESS_MM = 80.0
# Where it is so much thicker than its thinnest tenth, something is pressed into it.
THIN_PART, PRESSED_MM = 0.1, 6.0
# So much of its surface is a plane or a trough, give or take.
EVEN, UNEVEN_MM = 0.9, 8.0
# It is seen where the air before so much of its width is free.
SEEN_MM = 20.0
# Of the patient's bone, no more lies behind its surface.
BONE_BEHIND = 0.05
CONSTANT, STILL_THERE = 0.9, 0.9
MOST_LAYERS = 8
CORNERS = np.ones((3, 3), dtype=bool)


def remove_couch(tissue: Mask, bone: Mask, spacing_mm: tuple[float, float, float]) -> None:
    """Take a couch at the first or the last rows, and all that lies behind its surface, from the mask.

    Parameters
    ----------
    tissue
        (slices, rows, columns); changed in place.
    bone
        The same planes: where there is much of it, there is no couch.
    spacing_mm
        (z, y, x).
    """
    dz, dy, dx = spacing_mm
    length = max(2, round(COUCH_LENGTH_MM / dz))
    for last in range(len(tissue), min(len(tissue), length) // 2, -max(1, length // 2)):  # the head before the chest
        window = slice(max(0, last - length), max(last, min(len(tissue), length)))
        constant = _constant(tissue[window])
        for side in (1, -1):
            seen, bones = tissue[:, ::side], bone[:, ::side]
            for _ in range(MOST_LAYERS):
                couch = _couch(constant[::side], dy, dx)
                if couch is not None:  # lungs would leave of a chest what looks like one
                    couch = _couch(_constant(filled(seen[window])), dy, dx)
                if couch is None or not _patient_lies_on(seen[window], bones[window], couch):
                    break
                _cut(seen, bones, couch, window, dx, length // 2)
                constant = _constant(tissue[window])


def _constant(tissue: Mask) -> Mask:
    """Return which pixels (rows, columns) are tissue on almost all planes."""
    return np.asarray(_loose(tissue).view(np.uint8).sum(axis=0, dtype=np.uint16) >= CONSTANT * len(tissue))


@dataclass(frozen=True, slots=True, eq=False)
class Couch:
    """A couch's cross-section on the planes (rows, columns).

    Attributes
    ----------
    columns
        Those in which it is seen alone, increasing.
    surface
        Its first row in each of them.
    beyond
        Everything at its surface and behind, between its outermost columns.
    """

    columns: NDArray[np.intp]
    surface: NDArray[np.intp]
    beyond: Mask


def _loose(tissue: Mask) -> Mask:
    """Widen each plane by a row to either side: couches sag, and lie a little aslant."""
    loose = tissue.copy()
    loose[:, 1:] |= tissue[:, :-1]
    loose[:, :-1] |= tissue[:, 1:]
    return loose


def _couch(constant: Mask, dy: float, dx: float) -> Couch | None:
    """Choose the widest thin part of a plane (rows, columns) that looks like the cross-section of a couch.

    Its surface is flat or a trough. Columns in which it is thicker than elsewhere are those where the patient, or a
    head rest, is pressed into it; there the surface goes on as beside them.
    """
    labels, _ = ndimage.label(constant, CORNERS)
    best, widest = None, COUCH_WIDTH_MM
    for label, (rows, across) in enumerate(ndimage.find_objects(labels), start=1):
        if (across.stop - across.start) * dx < widest:
            continue
        part = labels[rows, across] == label
        first, last = part.argmax(axis=0), len(part) - 1 - part[::-1].argmax(axis=0)
        thickness = (last - first + 1) * dy
        thin = thickness <= np.quantile(thickness, THIN_PART) + PRESSED_MM
        for alone in (thickness <= COUCH_THICKNESS_MM, thin & (thickness <= COUCH_THICKNESS_MM)):
            surface = _trough(first, alone, dy) if float(alone.sum()) * dx >= widest else None
            if surface is None:
                continue
            even = alone & (np.abs(first - surface) * dy <= UNEVEN_MM)
            surface = np.rint(np.where(even, first, surface)).astype(np.intp)
            surface += rows.start + 1  # the loosened row is before the surface
            beyond = np.zeros_like(constant)
            beyond[:, across] = np.arange(len(constant))[:, None] >= surface[None, :]
            best, widest = Couch(np.flatnonzero(even) + across.start, surface[even], beyond), float(even.sum()) * dx
            break
    return best


def _trough(first: NDArray[np.intp], alone: Mask, dy: float) -> FloatArray | None:
    """Lay a plane or a trough through the surface of a couch where it is seen alone; None where that is not even."""
    columns = np.flatnonzero(alone)
    trough = np.polynomial.Polynomial.fit(columns, first[columns], 2)
    even = np.abs(first[columns] - trough(columns)) * dy <= UNEVEN_MM
    return np.asarray(trough(np.arange(len(first)))) if even.mean() >= EVEN else None


def _patient_lies_on(tissue: Mask, bone: Mask, couch: Couch) -> bool:
    """Return whether much more lies before a couch than in it and behind it, and the patient's bone with it."""
    there, bones = tissue.sum(axis=0), bone.sum(axis=0)
    behind, columns = float(there[couch.beyond].sum()), couch.beyond.any(axis=0)
    if not behind or float(there[:, columns].sum()) <= 1.5 * behind:
        return False
    return float(bones[couch.beyond].sum()) <= BONE_BEHIND * float(bones.sum())


def _cut(tissue: Mask, bone: Mask, couch: Couch, window: slice, dx: float, far: int) -> None:
    """Remove a couch, and what is behind it, from the window and from all slices where it is seen too.

    There it is seen where nothing lies on it: where the patient lies instead of it, nobody could tell.
    """
    rows, columns = couch.surface, couch.columns
    last = len(couch.beyond) - 1
    there = np.zeros((len(tissue), len(columns)), dtype=bool)
    for step in (-1, 0, 1):
        there |= tissue[:, np.clip(rows + step, 0, last), columns]
    solid = filled(tissue)  # the air of lungs is no air above a couch
    free = np.ones_like(there)
    for step in (2, 3):
        free &= ~solid[:, np.clip(rows - step, 0, last), columns]
    seen = free.sum(axis=1)
    present = (seen * dx >= SEEN_MM) & ((there & free).sum(axis=1) >= STILL_THERE * seen)
    present[window] = True
    # Between slices where it is seen, and near the ends of the CT, it goes on.
    known = np.flatnonzero(present)
    first = 0 if known[0] <= far else known[0]
    end = len(tissue) if known[-1] >= len(tissue) - far else known[-1] + 1
    clear = bone[first:end, couch.beyond].sum(axis=1) <= BONE_BEHIND * bone[first:end].sum(axis=(1, 2))
    tissue[first:end][clear | present[first:end]] &= ~couch.beyond
