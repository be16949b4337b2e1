"""RTSTRUCT dataset -> contours and masks: for the read-back check, the trainer and tests.

DICOM PS3.3 C.8.8.5 (ROIs) and C.8.8.6 (contours). It shares no code with the contouring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from shapely.errors import ShapelyError

from contourd.dicom.reading.header_values import LONGEST_TEXT
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.rtstruct.loops import combined, planes
from contourd.errors import DatasetError
from contourd.imaging.grid import Box, FloatArray, Grid, within
from contourd.system.logs import one_line

EXCLUSIVE, INTERPOLATED = "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR"
CLOSED = ("CLOSED_PLANAR", EXCLUSIVE, INTERPOLATED, "")
FEWEST_VALUES = 9
# A smaller loop is a stray click, never a hole: it takes no voxel away from what it lies in.
SMALLEST_HOLE_PIXELS = 0.25
LARGEST_COORDINATE_MM = 1e6
# Planes nearer to each other than this are drawn between the slices too; where they may lie beside their place.
DENSE_SLICES, TOLERANCE_SLICES = 0.75, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ReadROI:
    """One ROI of a structure set.

    Attributes
    ----------
    contours
        Loops, each float64 (n, 3), patient mm (x, y, z); their exclusive or, plane by plane, is the ROI.
    images
        For each contour the SOP Instance UID that it refers to, empty where it names none.
    frame_of_reference_uid
        Empty where it names none.
    remarks
        What is odd about its contours, in words: what was passed over, united or left out.
    unusable
        Why what was read is not, or may not be, what was drawn; empty where it is. There are no contours where nobody
        can say which of them are its.
    """

    number: int
    name: str
    contours: tuple[FloatArray, ...]
    images: tuple[str, ...]
    frame_of_reference_uid: str = ""
    remarks: tuple[str, ...] = ()
    unusable: str = ""


def read_structure_set(dataset: Dataset) -> tuple[ReadROI, ...]:
    """Read the ROIs, mapped by ReferencedROINumber, never by their place; an ROI may lack contours.

    An ROI whose number another has too, or for which there are several items of contours, is unusable. So are contours
    of a number that no ROI has: they stand at the end, as an ROI without a name.

    Raises
    ------
    DatasetError
        The dataset is damaged, a contour has coordinates that are none, or the numbers of ROIs and contours do not fit
        together; names the ROI.
    """
    where = "the structure set"
    rois = []
    try:
        items = list(dataset.get("StructureSetROISequence") or ())
        contours: dict[int, list[Dataset]] = {}
        for of_contours in dataset.get("ROIContourSequence") or ():
            contours.setdefault(int(of_contours.ReferencedROINumber), []).append(of_contours)
        names: dict[int, list[str]] = {}
        for item in items:
            names.setdefault(int(item.ROINumber), []).append(roi_name(item))
        for item in items:
            where = f"ROI {roi_name(item) or item.ROINumber} of the structure set"
            number = int(item.ROINumber)
            doubt = _doubt(number, names[number], contours.get(number, []))
            rois.append(_roi(item, None if doubt else next(iter(contours.get(number, ())), None), doubt))
    except (*UNREADABLE, ShapelyError) as error:
        raise DatasetError(f"{where} cannot be read ({type(error).__name__}); export it again") from error
    astray = [n for n, found in contours.items() if n not in names and any(c.get("ContourSequence") for c in found)]
    without = [roi.name for roi in rois if roi.number not in contours]
    if astray and without:
        raise DatasetError(
            f"contours refer to ROI number {astray[0]}, which no ROI has, and ROI {without[0]} has none: the numbers "
            "of ROIs and contours do not fit together; export it again"
        )
    reason = "its contours refer to ROI number {}, which no ROI of the structure set has"
    return (*rois, *(ReadROI(n, "", (), (), unusable=reason.format(n)) for n in astray))


def roi_name(item: Dataset) -> str:
    """Return the name of an item of the Structure Set ROI Sequence, on one line of bounded length."""
    return one_line(item.get("ROIName", "") or "", LONGEST_TEXT)


def _doubt(number: int, names: Sequence[str], of_contours: Sequence[Dataset]) -> str:
    """Return why it is unknown which contours are an ROI's, empty where it is known."""
    if len(names) > 1:
        return f"ROI number {number} stands for {', '.join(names)}: nobody can say whose the contours are"
    if len(of_contours) > 1:
        return f"ROI number {number} has contours in {len(of_contours)} items: nobody can say which of them are its own"
    return ""


def _roi(item: Dataset, of_contours: Dataset | None, unusable: str) -> ReadROI:
    loops: list[FloatArray] = []
    images: list[str] = []
    kinds: list[str] = []
    odd: Counter[str] = Counter()
    lines_mm: list[float] = []
    for contour in (of_contours.get("ContourSequence") or ()) if of_contours is not None else ():
        kind, values = str(contour.get("ContourGeometricType", "") or "").strip().upper(), _values(contour)
        unusable = unusable or _damage(contour, values)
        if kind not in CLOSED:
            odd[f"of type {one_line(kind, LONGEST_TEXT)}, which encloses nothing, passed over"] += 1
            lines_mm += list(values[2::3].mean(keepdims=True)) if kind != "POINT" and len(values) >= 3 else []
            continue
        if len(values) < FEWEST_VALUES or len(values) % 3:
            odd["of fewer than three whole points passed over"] += 1
            continue
        if not np.all(np.abs(values) <= LARGEST_COORDINATE_MM):  # nor is NaN
            raise ValueError("no coordinate")
        if kind in (INTERPOLATED, ""):
            odd[f"of type {kind} taken as CLOSED_PLANAR" if kind else "without a type taken as CLOSED_PLANAR"] += 1
        references = list(contour.get("ContourImageSequence") or [])
        loops.append(values.reshape(-1, 3))
        images.append(str(references[0].ReferencedSOPInstanceUID) if references else "")
        kinds.append(kind)
    remarks = [f"{count} contour{'s' if count > 1 else ''} {text}" for text, count in sorted(odd.items())]
    frame, number = str(item.get("ReferencedFrameOfReferenceUID", "") or ""), int(item.ROINumber)
    unusable = unusable or _open(lines_mm, loops)
    meant = combined(loops, [kind == EXCLUSIVE for kind in kinds])
    named = tuple(images[k] for k in meant.sources)
    return ReadROI(number, roi_name(item), meant.loops, named, frame, (*remarks, *meant.remarks), unusable)


def _damage(contour: Dataset, values: FloatArray) -> str:
    """Return why the points of a contour are not those that were drawn, empty where they may be."""
    if len(values) % 3:
        return f"a contour has {len(values)} coordinates, which are no points in space"
    message = contour.get("NumberOfContourPoints")
    if message is not None and len(values) // 3 < int(message) - 1:  # a closing point may be counted and left out
        return f"a contour has {len(values) // 3} of its {int(message)} points"
    if np.any(_numbers(contour, "ContourOffsetVector")):
        return "a contour has a Contour Offset Vector, which is retired and read in two ways"
    return ""


def _open(lines_mm: Sequence[float], loops: Sequence[FloatArray]) -> str:
    """Return which outline is open on a plane that has no closed one, empty where each has."""
    if not lines_mm or not loops:
        return ""
    of = planes([*(float(loop[:, 2].mean()) for loop in loops), *lines_mm])
    without = np.setdiff1d(of[len(loops) :], of[: len(loops)])
    return f"its outline is open, and none is closed, on {len(without)} of its planes" if len(without) else ""


def _values(contour: Dataset) -> FloatArray:
    """Read the numbers of ContourData."""
    return _numbers(contour, "ContourData")


def _numbers(contour: Dataset, keyword: str) -> FloatArray:
    """Read decimal strings; undecoded text at once, since an object for each number takes seconds."""
    if keyword not in contour:
        return np.zeros(0)
    element = contour.get_item(keyword)
    if isinstance(element, RawDataElement) and element.value:
        return np.array(element.value.strip(b" \0").split(b"\\"), dtype=np.float64)
    return np.asarray(contour[keyword].value or (), dtype=np.float64)


def misplaced(roi: ReadROI, grid: Grid, frame_of_reference_uid: str) -> tuple[str, ...]:
    """Return why contours of an ROI are not of the grid's image; nothing where all of them are.

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

    Loops on one plane are combined by exclusive or, so that holes stay holes, whether drawn as a loop of their own or
    through a keyhole. A loop under SMALLEST_HOLE_PIXELS only adds.

    Parameters
    ----------
    contours_mm
        Each (n, 3), patient mm. A contour lies on the slice that ``on_slices`` gives it, or on none.
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
    start, end = index[:, 1:], index[_next(loop), 1:]
    area = np.abs(np.bincount(loop, start[:, 1] * end[:, 0] - end[:, 1] * start[:, 0])) / 2
    slices, used = _slices(index[:, 0], loop, [float(points[:, 2].mean()) for points in loops], grid)
    drawn = _overlap(extent(loops, grid, used), target)
    part = mask[within(drawn, target)]
    for chosen in (used & (area >= SMALLEST_HOLE_PIXELS), used & (area < SMALLEST_HOLE_PIXELS)):
        edges = chosen[loop]
        if part.size and edges.any():
            part |= _fill(slices[loop[edges]], start[edges], end[edges], drawn)
    return mask


def on_slices(contours_mm: Sequence[FloatArray], grid: Grid) -> NDArray[np.intp]:
    """Return for each contour the slice that it is drawn on, -1 where it is drawn on none.

    A contour belongs to the slice nearest to its mean position, within half a slice. Of several planes of one slice the
    nearest counts, the lower of two. Where planes lie closer together than slices, one counts only for a slice within
    half of the planes' own distance: beyond it the next plane, or nothing, was drawn.
    """
    if not contours_mm:
        return np.zeros(0, dtype=np.intp)
    loop = np.repeat(np.arange(len(contours_mm)), [len(p) for p in contours_mm])
    z_mm = [float(points[:, 2].mean()) for points in contours_mm]
    slices, used = _slices(grid.to_index(np.concatenate(contours_mm))[:, 0], loop, z_mm, grid)
    return np.where(used, slices, -1)


def _slices(
    positions: FloatArray, loop: NDArray[np.intp], z_mm: Sequence[float], grid: Grid
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the nearest slice of each loop, and whether it is drawn there; positions of points are in slices."""
    position = np.bincount(loop, positions) / np.bincount(loop)
    nearest, used = np.rint(position).astype(np.intp), _near(position, grid.shape[0])
    plane = planes(z_mm)
    pairs, of = np.unique(np.column_stack([nearest[used], plane[used]]), axis=0, return_inverse=True)
    if len(pairs) == len(np.unique(pairs[:, 0])):
        return nearest, used
    middle = np.bincount(of, position[used]) / np.bincount(of)
    steps = np.diff(np.bincount(plane, position) / np.bincount(plane))
    dense = np.median(np.abs(steps)) < DENSE_SLICES
    farthest = (np.median(np.abs(steps)) / 2 + TOLERANCE_SLICES) if dense else 0.5
    away = np.abs(middle - pairs[:, 0])
    order = np.lexsort((pairs[:, 1], np.round(away, 3), pairs[:, 0]))
    first = np.diff(pairs[order, 0], prepend=-1) > 0
    chosen = np.zeros(len(pairs), dtype=bool)
    chosen[order[first]] = True
    used[used] = (chosen & (away <= farthest))[of]
    return nearest, used


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
    """Return which positions, in slices, have a slice within half a spacing."""
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
