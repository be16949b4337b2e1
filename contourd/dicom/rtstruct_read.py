"""RTSTRUCT dataset -> contours and masks: for the read-back check, the trainer and tests.

DICOM PS3.3 C.8.8.6.3. It shares no code with the contouring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.imaging.grid import Box, FloatArray, Grid

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")


@dataclass(frozen=True, slots=True, eq=False)
class ReadROI:
    """One ROI of a structure set.

    Attributes
    ----------
    contours
        Closed planar contours, each float64 (n, 3), patient mm (x, y, z); other types are passed over.
    images
        For each contour the SOP Instance UID that it refers to, empty where it names none.
    """

    number: int
    name: str
    contours: tuple[FloatArray, ...]
    images: tuple[str, ...]


def read_structure_set(dataset: Dataset) -> tuple[ReadROI, ...]:
    """Read the ROIs, mapped by ReferencedROINumber, never by their place; an ROI may lack contours."""
    contours = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or ()}
    return tuple(_roi(item, contours.get(int(item.ROINumber))) for item in dataset.get("StructureSetROISequence") or ())


def _roi(item: Dataset, of_contours: Dataset | None) -> ReadROI:
    loops: list[FloatArray] = []
    images: list[str] = []
    for contour in (of_contours.get("ContourSequence") or ()) if of_contours is not None else ():
        values: FloatArray = np.asarray(contour.get("ContourData") or (), dtype=np.float64)
        if str(contour.get("ContourGeometricType", "")) not in CLOSED or len(values) < 9 or len(values) % 3:
            continue
        references = list(contour.get("ContourImageSequence") or [])
        loops.append(values.reshape(-1, 3))
        images.append(str(references[0].ReferencedSOPInstanceUID) if references else "")
    return ReadROI(int(item.ROINumber), str(item.get("ROIName", "") or ""), tuple(loops), tuple(images))


def rasterise(contours_mm: Iterable[FloatArray], grid: Grid) -> NDArray[np.bool_]:
    """Fill contours by the even-odd rule at voxel centres.

    Loops on one slice are combined by exclusive or, so that holes stay holes, whether drawn as a loop of their own or
    through a keyhole.

    Parameters
    ----------
    contours_mm
        Each (n, 3), patient mm. A contour lies on the slice nearest to its mean position; one that is more than half a
        slice away from any is left out.

    Returns
    -------
    bool (z, y, x) of the grid's shape.
    """
    mask = np.zeros(grid.shape, dtype=bool)
    for points in contours_mm:
        index = grid.to_index(points)
        position = float(index[:, 0].mean())
        k = round(position)
        if not 0 <= k < grid.shape[0] or abs(position - k) > 0.5:
            continue
        box, filled = _fill(index[:, 1:], grid.shape)
        mask[k][box[1:]] ^= filled
    return mask


def _fill(loop: FloatArray, shape: tuple[int, int, int]) -> tuple[Box, NDArray[np.bool_]]:
    """Fill one loop (n, 2), rows and columns with fractions; returns its box and bool (rows, columns) inside it.

    Row by row: an edge toggles every centre to the right of where it crosses the row.
    """
    first = np.maximum(np.ceil(loop.min(axis=0)).astype(int), 0)
    last = np.minimum(np.floor(loop.max(axis=0)).astype(int), np.array(shape[1:]) - 1)
    rows, columns = np.maximum(last - first + 1, 0)
    box = (slice(0, 0), slice(first[0], first[0] + rows), slice(first[1], first[1] + columns))
    toggles = np.zeros((rows, columns + 1), dtype=np.int32)
    if rows and columns:
        start, end = loop, np.roll(loop, -1, axis=0)
        top, bottom = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
        # Rows r with top <= r < bottom, so that a vertex on a row counts once.
        low = np.clip(np.ceil(top).astype(int) - first[0], 0, rows)
        high = np.clip(np.ceil(bottom).astype(int) - first[0], 0, rows)
        counts = high - low
        edge = np.repeat(np.arange(len(loop)), counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        a, b = start[edge], end[edge]
        crossing = a[:, 1] + (row + first[0] - a[:, 0]) * (b[:, 1] - a[:, 1]) / (b[:, 0] - a[:, 0])
        column = np.clip(np.ceil(crossing).astype(int) - first[1], 0, columns)
        np.add.at(toggles, (row, column), 1)
    return box, np.asarray(np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1)
