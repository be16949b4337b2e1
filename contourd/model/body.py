"""Where the patient lies in a CT: without couch, head rest, mask, cushion, a second object, or a raised arm.

It is found once for each volume, on every k-th voxel of the CT itself (a few mm), so that all that is cut out of the
CT agrees on it. A couch and whatever lies behind its surface is taken off first (contourd.model.couch). What is thinner
than a finger, such as shells, sheets, frames, straps and tubes, is taken off by an opening. Of what is left, the
patient is the part of soft tissue that has bone in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Box, FloatArray, Grid
from contourd.imaging.volume import AIR_HU
from contourd.model.couch import remove_couch
from contourd.model.planes import IN_PLANE, Mask, filled, grown, opened
from contourd.reasons.catalogue import HoldReason

TISSUE_HU = -350
BONE_HU = (250, 1500)
SMALLEST_BODY_CM3 = 500.0
# Slices, rows and columns of the CT are taken as far apart as this at most.
SURVEY_MM = (5.0, 3.5, 3.5)
# What is thinner than about twice this is taken off.
OPENING_MM = 5.0
MARGIN = 3
# A part beside the head that joins the body only below is an arm, but for the slope of a shoulder.
HEAD_MM = 120.0
ARM_OFFSET_MM = 50.0
SHOULDER_SLOPE_MM = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class PatientMask:
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


def find_patient(hu: NDArray[np.int16], grid: Grid) -> PatientMask:
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
    part = _part_with_bone(opened(alone, OPENING_MM / dx), bone)
    if part is None or part.sum() * dz * dy * dx < SMALLEST_BODY_CM3 * 1000:
        raise SeriesUnusable(HoldReason.NO_PATIENT)
    near = _around(part)
    inner = filled(without_arms(grown(part[near], 1) & alone[near], (dz, dy, dx)))
    body, kept = np.zeros_like(tissue), np.zeros_like(tissue)
    body[near] = inner
    wider = grown(inner, 1)
    wider[1:] |= inner[:-1]
    wider[:-1] |= inner[1:]
    kept[near] = inner | (wider & ~grown(tissue[near] & ~inner, 1))
    return PatientMask(body, kept, axes)


def _around(part: Mask) -> Box:
    """Return the box around a mask, with some voxels of margin."""
    z, y, x = (np.flatnonzero(part.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    rows, columns = (slice(max(int(a[0]) - MARGIN, 0), int(a[-1]) + 1 + MARGIN) for a in (y, x))
    return slice(max(int(z[0]) - 1, 0), int(z[-1]) + 2), rows, columns


def _scanned(survey: NDArray[np.int16]) -> Mask:
    """Separate tissue from air and from the bright padding that some scanners put around the round field of view."""
    tissue = survey > TISSUE_HU
    corner = survey[0, 0, 0]
    if corner > TISSUE_HU:
        padding = (survey == corner).all(axis=0)
        if not padding.all():
            tissue &= ~padding
    return tissue


def _part_with_bone(parts: Mask, bone: Mask) -> Mask | None:
    """Choose the connected part that is large and has bone in it, the largest where none has; None without any."""
    labels, count = ndimage.label(parts)
    if not count:
        return None
    if count == 1:
        return parts
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float)
    bones = np.bincount(labels[bone], minlength=count + 1)[1:]
    weights = sizes * (bones + 1e-3 * sizes)
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
