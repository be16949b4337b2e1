"""RTSTRUCT dataset -> contours and masks: for the read-back check, the trainer and tests.

DICOM PS3.3 C.8.8.6.3. It shares no code with the contouring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from contourd.dicom.instance import UNREADABLE
from contourd.dicom.values import LONGEST_TEXT
from contourd.errors import DatasetError
from contourd.imaging.grid import Box, FloatArray, Grid, within
from contourd.logs import one_line

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")
# A smaller loop is a stray click, never a hole: it takes no voxel away from what it lies in.
SMALLEST_HOLE_PIXELS = 0.25
LARGEST_COORDINATE_MM = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class ReadROI:
    """One ROI of a structure set.

    Attributes
    ----------
    contours
        Closed planar contours, each float64 (n, 3), patient mm (x, y, z); other types are passed over.
    images
        For each contour the SOP Instance UID that it refers to, empty where it names none.
    frame_of_reference_uid
        Empty where it names none.
    """

    number: int
    name: str
    contours: tuple[FloatArray, ...]
    images: tuple[str, ...]
    frame_of_reference_uid: str = ""


def read_structure_set(dataset: Dataset) -> tuple[ReadROI, ...]:
    """Read the ROIs, mapped by ReferencedROINumber, never by their place; an ROI may lack contours.

    Raises
    ------
    DatasetError
        The dataset is damaged, or a contour has coordinates that are none; names the ROI.
    """
    where = "the structure set"
    rois = []
    try:
        contours = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or ()}
        for item in dataset.get("StructureSetROISequence") or ():
            where = f"ROI {one_line(item.get('ROIName') or item.ROINumber, LONGEST_TEXT)} of the structure set"
            rois.append(_roi(item, contours.get(int(item.ROINumber))))
    except UNREADABLE as error:
        raise DatasetError(f"{where} cannot be read ({type(error).__name__}); export it again") from error
    return tuple(rois)


def _roi(item: Dataset, of_contours: Dataset | None) -> ReadROI:
    loops: list[FloatArray] = []
    images: list[str] = []
    for contour in (of_contours.get("ContourSequence") or ()) if of_contours is not None else ():
        if str(contour.get("ContourGeometricType", "") or "") not in CLOSED:
            continue
        values = _values(contour)
        if len(values) < 9 or len(values) % 3:
            continue
        references = list(contour.get("ContourImageSequence") or [])
        if not np.all(np.abs(values) <= LARGEST_COORDINATE_MM):  # nor is NaN
            raise ValueError("no coordinate")
        loops.append(values.reshape(-1, 3))
        images.append(str(references[0].ReferencedSOPInstanceUID) if references else "")
    frame = str(item.get("ReferencedFrameOfReferenceUID", "") or "")
    name = one_line(item.get("ROIName", "") or "", LONGEST_TEXT)
    return ReadROI(int(item.ROINumber), name, tuple(loops), tuple(images), frame)


def _values(contour: Dataset) -> FloatArray:
    """Read the numbers of ContourData; undecoded text at once, since an object for each number takes seconds."""
    if "ContourData" not in contour:
        return np.zeros(0)
    element = contour.get_item("ContourData")
    if isinstance(element, RawDataElement) and element.value:
        return np.array(element.value.strip(b" \0").split(b"\\"), dtype=np.float64)
    return np.asarray(contour.ContourData or (), dtype=np.float64)


def misplaced(roi: ReadROI, grid: Grid, frame_of_reference_uid: str) -> tuple[str, ...]:
    """Say why contours of an ROI are not of the grid's image; nothing where all of them are.

    Parameters
    ----------
    frame_of_reference_uid
        Of the image that ``grid`` describes.
    """
    if roi.frame_of_reference_uid and roi.frame_of_reference_uid != frame_of_reference_uid:
        return (f"{roi.name}: drawn on another frame of reference ({roi.frame_of_reference_uid}) than the CT's",)
    reasons = []
    rows, columns = grid.shape[1:]
    for points in roi.contours:
        index = grid.to_index(points)
        z = f"{roi.name}: the contour at z = {points[:, 2].mean():.2f} mm"
        position = float(index[:, 0].mean())
        (top, left), (bottom, right) = index[:, 1:].min(axis=0), index[:, 1:].max(axis=0)
        if not _near(np.array(position), grid.shape[0]):
            reasons.append(f"{z} is more than half a slice from every slice")
        elif np.ptp(index[:, 0]) > 1:
            reasons.append(f"{z} is not parallel to the slices")
        elif bottom < -0.5 or right < -0.5 or top > rows - 0.5 or left > columns - 0.5:
            reasons.append(f"{z} lies outside of the image")
    return tuple(reasons)


def rasterise(contours_mm: Iterable[FloatArray], grid: Grid, box: Box | None = None) -> NDArray[np.bool_]:
    """Fill contours by the even-odd rule at voxel centres.

    Loops on one slice are combined by exclusive or, so that holes stay holes, whether drawn as a loop of their own or
    through a keyhole. A loop under SMALLEST_HOLE_PIXELS only adds.

    Parameters
    ----------
    contours_mm
        Each (n, 3), patient mm. A contour lies on the slice nearest to its mean position; one that is more than half a
        slice away from any is left out.
    box
        The part of the grid to fill; all of it by default.

    Returns
    -------
    bool (z, y, x) of the box's, or the grid's, shape.
    """
    target = box or (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    mask = np.zeros([part.stop - part.start for part in target], dtype=bool)
    loops = [points for points in contours_mm if len(points)]
    if not loops:
        return mask
    index, loop = grid.to_index(np.concatenate(loops)), np.repeat(np.arange(len(loops)), [len(p) for p in loops])
    position = np.bincount(loop, index[:, 0]) / np.bincount(loop)
    start, end = index[:, 1:], index[_next(loop), 1:]
    area = np.abs(np.bincount(loop, start[:, 1] * end[:, 0] - end[:, 1] * start[:, 0])) / 2
    near = _near(position, grid.shape[0])
    drawn = _overlap(extent(loops, grid, near), target)
    part = mask[within(drawn, target)]
    for chosen in (near & (area >= SMALLEST_HOLE_PIXELS), near & (area < SMALLEST_HOLE_PIXELS)):
        edges = chosen[loop]
        if part.size and edges.any():
            part |= _fill(np.rint(position).astype(int)[loop[edges]], start[edges], end[edges], drawn)
    return mask


def extent(contours_mm: Iterable[FloatArray], grid: Grid, chosen: NDArray[np.bool_] | None = None) -> Box:
    """Return the box of the voxel centres that contours may hold; it is cut at the grid's edges and may be empty."""
    loops = [p for i, p in enumerate(contours_mm) if len(p) and (chosen is None or chosen[i])]
    if not loops:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    index = grid.to_index(np.concatenate(loops))
    index[:, 0] = np.rint(index[:, 0])
    first = np.clip(np.ceil(index.min(axis=0)).astype(int), 0, grid.shape)
    last = np.clip(np.floor(index.max(axis=0)).astype(int) + 1, first, grid.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return z, y, x


def _overlap(a: Box, b: Box) -> Box:
    low = [max(p.start, q.start) for p, q in zip(a, b, strict=True)]
    z, y, x = (slice(n, max(n, min(p.stop, q.stop))) for n, p, q in zip(low, a, b, strict=True))
    return z, y, x


def _near(position: FloatArray, slices: int) -> NDArray[np.bool_]:
    """Tell which positions, in slices, have a slice within half a spacing."""
    k = np.rint(position)
    return np.asarray((k >= 0) & (k < slices) & (np.abs(position - k) <= 0.5))


def _next(loop: NDArray[np.intp]) -> NDArray[np.intp]:
    """Index of the point that follows each one on its loop."""
    following = np.arange(1, len(loop) + 1)
    last = np.flatnonzero(np.diff(loop, append=-1))
    following[last] = np.concatenate([[0], last[:-1] + 1])
    return following


def _fill(k: NDArray[np.intp], start: FloatArray, end: FloatArray, box: Box) -> NDArray[np.bool_]:
    """Fill the loops whose edges are given, rows and columns with fractions, on slices ``k``; bool of the box's shape.

    Row by row: an edge toggles every centre to the right of where it crosses the row.
    """
    # Edges run downwards, so that the two ways along a keyhole's slit cross a row at the very same place.
    upwards = (start[:, 0] > end[:, 0])[:, None]
    start, end = np.where(upwards, end, start), np.where(upwards, start, end)
    (slices, rows, columns), (z, y, x) = (part.stop - part.start for part in box), (part.start for part in box)
    # Rows r with start <= r < end, so that a vertex on a row counts once.
    low = np.clip(np.ceil(start[:, 0]).astype(int) - y, 0, rows)
    high = np.clip(np.ceil(end[:, 0]).astype(int) - y, 0, rows)
    counts = np.where((k >= z) & (k < z + slices), high - low, 0)
    edge = np.repeat(np.arange(len(start)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
    a, b = start[edge], end[edge]
    crossing = a[:, 1] + (row + y - a[:, 0]) * (b[:, 1] - a[:, 1]) / (b[:, 0] - a[:, 0])
    column = np.clip(np.ceil(crossing).astype(int) - x, 0, columns)
    place = ((k[edge] - z) * rows + row) * (columns + 1) + column
    toggles = np.bincount(place, minlength=slices * rows * (columns + 1)).astype(np.uint8) & 1
    parity = np.bitwise_xor.accumulate(toggles.reshape(slices, rows, columns + 1), axis=2)
    return np.asarray(parity[:, :, :-1].view(np.bool_))
