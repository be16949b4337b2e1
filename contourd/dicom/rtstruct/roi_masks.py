"""One ROI of a structure set on a CT's grid: which voxels its contours hold, and what is doubtful about them.

For structure sets of whatever planning system: drawn on every second slice, between slices, beyond the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.dicom.rtstruct.loops import planes
from contourd.dicom.rtstruct.reader import ReadROI, misplaced, on_slices, rasterise
from contourd.imaging.grid import FloatArray, Grid

MOST_FILLED_SLICES = 2
STEP_TOLERANCE, MOST_SHARED_STEP = 0.02, 1.75


def roi_mask(
    roi: ReadROI, grid: Grid, frame_of_reference_uid: str, images: frozenset[str] | None = None
) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Fill one ROI on the CT's grid.

    Parameters
    ----------
    images
        SOP Instance UIDs of the CT; contours that refer to others are not of it. None: whatever they refer to.

    Returns
    -------
    The mask (z, y, x) and remarks. The mask is None where the ROI cannot be used, since nothing is drawn, it is not of
    this CT, or it is not whole; it is empty where all contours lie above or below what was scanned.
    """
    text = list(roi.remarks)
    if roi.unusable:
        return None, [roi.unusable, *text]
    if not roi.contours:
        return None, ["nothing is drawn that encloses an area" if text else "nothing is drawn", *text]
    inside = _in_range(roi, grid)
    if not inside.contours:
        wrong = misplaced(inside, grid, frame_of_reference_uid)
        if wrong:
            return None, [*wrong, *text]
        return np.zeros(grid.shape, dtype=bool), ["drawn only outside of the scanned range", *text]
    wrong = misplaced(inside, grid, frame_of_reference_uid)
    if wrong:
        return None, [wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""), *text]
    strange = [uid for uid in inside.images if uid and images is not None and uid not in images]
    if strange:
        return None, [f"{len(strange)} of its contours refer to images of another series than the CT's", *text]
    beyond = len(roi.contours) - len(inside.contours)
    remarks = [*text, *([f"{beyond} contours lie outside of the scanned range"] if beyond else [])]
    between = int((on_slices(inside.contours, grid) < 0).sum())
    if between:
        remarks.append(f"{between} contours lie between the slices, which others are nearer to; they were left out")
    mask = rasterise(inside.contours, grid)
    if not mask.any():
        return None, [*remarks, "its contours hold no voxel centre"]
    step = plane_step(inside.contours, grid)
    filled = fill_skipped_slices(mask, step)
    if filled is not None:
        often = "every second or third slice" if step > MOST_SHARED_STEP else "planes farther apart than the slices"
        remarks.append(f"drawn on {often}; the slices between were interpolated")
        mask = filled
    drawn, empty = int(mask.any(axis=(1, 2)).sum()), empty_slices(mask)
    if empty >= drawn:
        return None, [*remarks, f"drawn on {drawn} slices with {empty} empty ones between them: too few to fill them"]
    return mask, remarks


def _in_range(roi: ReadROI, grid: Grid) -> ReadROI:
    """Leave out contours more than half a slice above or below the volume."""
    index = [float(grid.to_index(points)[:, 0].mean()) for points in roi.contours]
    inside = [n for n, k in enumerate(index) if -0.5 <= k <= grid.shape[0] - 0.5]
    return replace(roi, contours=tuple(roi.contours[n] for n in inside), images=tuple(roi.images[n] for n in inside))


def plane_step(contours_mm: Sequence[FloatArray], grid: Grid) -> float:
    """Return the usual distance of the planes of an ROI, in slices; 1 where there are fewer than three."""
    plane = planes([float(points[:, 2].mean()) for points in contours_mm])
    position = [float(grid.to_index(points)[:, 0].mean()) for points in contours_mm]
    middle = np.bincount(plane, position) / np.bincount(plane)
    return float(np.median(np.abs(np.diff(middle)))) if len(middle) > 2 else 1.0


def fill_skipped_slices(mask: NDArray[np.bool_], step: float = 1.0) -> NDArray[np.bool_] | None:
    """Interpolate an organ that was drawn on every second or third slice only; None where it was not.

    So it is too where the planes that it was drawn on lie ``step`` slices apart, and more than one: some slices have
    none then, though it was drawn on every plane.

    Shape-based: a voxel is inside where the mean of the signed distances to both outlines, weighted by nearness, is
    (Raya and Udupa, IEEE Trans Med Imaging 9, 1990).
    """
    drawn = np.flatnonzero(mask.any(axis=(1, 2)))
    steps = np.diff(drawn)
    skipped = (steps > 1) & (steps <= MOST_FILLED_SLICES + 1)
    if step > 1 + STEP_TOLERANCE and skipped.sum() < 0.5 * len(steps):
        skipped &= steps <= np.ceil(step)
    elif skipped.sum() < 0.5 * len(steps):
        return None
    if len(drawn) < 3 or not skipped.any():
        return None
    filled = mask.copy()
    for low, high in zip(drawn[:-1][skipped], drawn[1:][skipped], strict=True):
        below, above = _signed_distance(mask[low]), _signed_distance(mask[high])
        for k in range(low + 1, high):
            share = (k - low) / (high - low)
            filled[k] = (1 - share) * below + share * above > 0
    return filled


def _signed_distance(plane: NDArray[np.bool_]) -> FloatArray:
    """Distance to the outline in pixels, positive inside; the outline runs between pixels."""
    inside = ndimage.distance_transform_edt(plane)
    outside = ndimage.distance_transform_edt(~plane)
    return np.asarray(np.where(plane, inside - 0.5, 0.5 - outside))


def empty_slices(mask: NDArray[np.bool_]) -> int:
    """Count the slices without the organ between its first and its last."""
    drawn = np.flatnonzero(mask.any(axis=(1, 2)))
    return int(drawn[-1] - drawn[0] + 1 - len(drawn)) if len(drawn) else 0
