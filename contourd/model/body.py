"""Where the patient lies in a CT: without couch, head rest, mask, cushion, a second object, or a raised arm.

It is found once for each volume, on every k-th voxel of the CT itself (a few mm), so that all that is cut out of the
CT agrees on it. A couch is known by its constant cross-section along the patient; whatever lies beyond its surface is
no patient. What is thinner than a finger, such as shells, sheets, frames, straps and tubes, is taken off by an opening.
Of what is left, the patient is the part of soft tissue that has bone in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Box, FloatArray, Grid
from contourd.imaging.volume import AIR_HU

Mask = NDArray[np.bool_]

TISSUE_HU = -350
BONE_HU = (250, 1500)
SMALLEST_BODY_CM3 = 500.0
SURVEY_MM = (5.0, 3.5, 3.5)
# What is thinner than about twice this is taken off.
OPENING_MM = 5.0
# A couch keeps its cross-section over this length, is at least so wide, and at most so thick on the mean.
COUCH_LENGTH_MM, COUCH_WIDTH_MM, COUCH_THICKNESS_MM = 100.0, 180.0, 80.0
# Its surface is even but for so much of it and so many mm; where it is thicker than its thinner part, something lies on it.
THIN_PART, PRESSED_MM, EVEN, UNEVEN_MM, SEEN_MM = 0.1, 6.0, 0.9, 8.0, 20.0
BONE_BEHIND = 0.05
CONSTANT, STILL_THERE = 0.9, 0.9
MOST_LAYERS = 8
MARGIN = 3
# A part beside the head that joins the body only below is an arm, but for the slope of a shoulder.
HEAD_MM, ARM_OFFSET_MM, SHOULDER_SLOPE_MM = 120.0, 50.0, 40.0
# Neighbours on a plane that share a side, and those that share a corner too.
IN_PLANE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], dtype=bool)
CORNERS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True, eq=False)
class Patient:
    """The patient on every k-th voxel of a canonical CT.

    Attributes
    ----------
    body
        bool (slices, rows, columns): the patient, airways, lungs and holes filled.
    kept
        The body and the air beside it, but nothing of another object.
    axes_mm
        Positions of these voxels along the canonical axes, from the centre of the CT's first voxel.
    """

    body: Mask
    kept: Mask
    axes_mm: tuple[FloatArray, FloatArray, FloatArray]

    def only(self, hu: NDArray[np.int16], grid_mm: tuple[FloatArray, FloatArray, FloatArray]) -> NDArray[np.int16]:
        """Copy voxels of the canonical CT at the given positions, and set to air what is not the patient."""
        z, y, x = (_nearest(own, wanted) for own, wanted in zip(self.axes_mm, grid_mm, strict=True))
        planes = self.kept[:, y[:, None], x[None, :]]
        alone = np.full(hu.shape, AIR_HU, dtype=np.int16)
        for own, k in enumerate(z):
            np.copyto(alone[own], hu[own], where=planes[k])
        return alone


def _nearest(own: FloatArray, wanted: FloatArray) -> NDArray[np.intp]:
    """Return which of the own positions, increasing, is nearest to each wanted one."""
    middles = (own[1:] + own[:-1]) / 2
    return np.asarray(np.searchsorted(middles, wanted))


def find_patient(hu: NDArray[np.int16], grid: Grid) -> Patient:
    """Find the patient.

    Parameters
    ----------
    hu
        int16 (slices, rows, columns), axes towards head, back and left.
    grid
        Its grid.

    Raises
    ------
    SeriesUnusable
        Nothing of the size of a head is there.
    """
    spacing = grid.spacing_mm
    strides = [max(1, int(most / step)) for most, step in zip(SURVEY_MM, spacing, strict=True)]
    kz, ky, kx = (slice(k // 2 if n > k // 2 else 0, None, k) for k, n in zip(strides, hu.shape, strict=True))
    survey = np.ascontiguousarray(hu[kz, ky, kx])
    dz, dy, dx = (step * k for step, k in zip(spacing, strides, strict=True))
    axes = (
        grid.slice_positions_mm[kz],
        np.arange(hu.shape[1], dtype=float)[ky] * spacing[1],
        np.arange(hu.shape[2], dtype=float)[kx] * spacing[2],
    )
    tissue = _scanned(survey)
    alone = tissue.copy()
    bone = (survey > BONE_HU[0]) & (survey < BONE_HU[1])
    remove_couch(alone, bone, (dz, dy, dx))
    remove_couch(alone.swapaxes(1, 2), bone.swapaxes(1, 2), (dz, dx, dy))
    part = _part_with_bone(_opened(alone, OPENING_MM / dx), survey)
    if part is None or part.sum() * dz * dy * dx < SMALLEST_BODY_CM3 * 1000:
        raise SeriesUnusable("no patient found in the CT: nothing of the size of a head; check what was scanned")
    near = _around(part)
    inner = filled(without_arms(_grown(part[near], 1) & alone[near], (dz, dy, dx)))
    body, kept = np.zeros_like(tissue), np.zeros_like(tissue)
    body[near] = inner
    wider = _grown(inner, 1)
    wider[1:] |= inner[:-1]
    wider[:-1] |= inner[1:]
    kept[near] = inner | (wider & ~_grown(tissue[near] & ~inner, 1))
    return Patient(body, kept, axes)


def _around(part: Mask) -> Box:
    """Return the box around a mask, with some voxels of margin on each plane."""
    z, y, x = (np.flatnonzero(part.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    rows, columns = (slice(max(int(a[0]) - MARGIN, 0), int(a[-1]) + 1 + MARGIN) for a in (y, x))
    return slice(int(z[0]), int(z[-1]) + 1), rows, columns


def _scanned(survey: NDArray[np.int16]) -> Mask:
    """Tell tissue from air and from the bright padding that some scanners put around the round field of view."""
    tissue = survey > TISSUE_HU
    corner = survey[0, 0, 0]
    if corner > TISSUE_HU:
        padding = (survey == corner).all(axis=0)
        if not padding.all():
            tissue &= ~padding
    return tissue


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
    """Tell which pixels (rows, columns) are tissue on almost all planes."""
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
    """Let each plane reach a row further to either side: couches sag, and lie a little aslant."""
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
    """Tell whether much more lies before a couch than in it and behind it, and the patient's bone with it."""
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
    first, end = (0 if known[0] <= far else known[0]), (len(tissue) if known[-1] >= len(tissue) - far else known[-1] + 1)
    clear = bone[first:end, couch.beyond].sum(axis=1) <= BONE_BEHIND * bone[first:end].sum(axis=(1, 2))
    tissue[first:end][clear | present[first:end]] &= ~couch.beyond


def _part_with_bone(parts: Mask, survey: NDArray[np.int16]) -> Mask | None:
    """Choose the connected part that is large and has bone in it, the largest where none has; None without any."""
    labels, count = ndimage.label(parts)
    if not count:
        return None
    if count == 1:
        return parts
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float)
    low, high = BONE_HU
    bone = np.bincount(labels[(survey > low) & (survey < high)], minlength=count + 1)[1:]
    weights = sizes * (bone + 1e-3 * sizes)
    return np.asarray(labels == int(np.argmax(weights)) + 1)


def without_arms(body: Mask, spacing_mm: tuple[float, float, float]) -> Mask:
    """Take off what stands beside the head on its planes and joins the body only below: a raised arm.

    Each plane's parts are followed from the head upwards and downwards; what is reached by neither, and not from
    below within the slope of a shoulder, and lies beside the head, is taken off.
    """
    dz, _, dx = spacing_mm
    labels, count = ndimage.label(body, IN_PLANE)  # numbered from the feet to the head
    joined = np.zeros((count + 1, count + 1), dtype=bool)
    joined[labels[:-1], labels[1:]] = True
    joined[0] = joined[:, 0] = False
    pairs = np.argwhere(joined)  # (lower part, higher part), from the feet to the head
    seed = _head(labels, dz)
    followed = np.zeros(count + 1, dtype=bool)
    followed[seed] = True
    for low, high in pairs:
        followed[high] |= followed[low]
    for low, high in pairs[::-1]:
        followed[low] |= followed[high]
    slope = round(SHOULDER_SLOPE_MM / dz)
    above = np.where(followed, 0, slope + 1)  # planes between a part and the body that it joins below
    for low, high in pairs:
        above[high] = min(above[high], above[low] + 1)
    boxes = ndimage.find_objects(labels)
    middle = (boxes[seed - 1][2].start + boxes[seed - 1][2].stop - 1) / 2
    reach = ARM_OFFSET_MM / dx
    arms = [
        label
        for label in np.flatnonzero(above > slope)
        if label and (boxes[label - 1][2].start > middle + reach or boxes[label - 1][2].stop - 1 < middle - reach)
    ]
    return np.asarray(body & ~np.isin(labels, arms)) if arms else body


def _head(labels: NDArray[np.int32], dz: float) -> int:
    """Return the largest part of any plane of the head; the top of the skull apart."""
    there = np.flatnonzero(labels.any(axis=(1, 2)))
    first = max(int(there[0]), int(there[-1]) - round(HEAD_MM / dz))
    last = max(int(there[-1]) - round(HEAD_MM / dz / 4), first)
    sizes = np.bincount(labels[first : last + 1].ravel())
    sizes[0] = 0
    return int(np.argmax(sizes))


def _opened(planes: Mask, radius: float) -> Mask:
    """Take off on each plane what is thinner than twice a radius in pixels; the field of view's edge is no edge."""
    passes = max(1, round(radius))
    return _grown(~_grown(~planes, passes), passes)


def _grown(planes: Mask, passes: int) -> Mask:
    """Grow the mask on each plane by so many pixels, nearly round: by turns without and with corners."""
    grown = planes
    for n in range(passes):
        before, grown = grown, grown.copy()
        grown[:, 1:] |= before[:, :-1]
        grown[:, :-1] |= before[:, 1:]
        if n % 2:
            before = grown.copy()
        grown[:, :, 1:] |= before[:, :, :-1]
        grown[:, :, :-1] |= before[:, :, 1:]
    return grown


def filled(planes: Mask) -> Mask:
    """Fill the holes of the mask on each plane: all that is not joined to the plane's edge."""
    labels, count = ndimage.label(~planes, IN_PLANE)
    outside = np.zeros(count + 1, dtype=bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[edge] = True
    outside[0] = False
    return np.asarray(~outside[labels])
