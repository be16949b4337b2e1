"""The pictures of a job or a held series: planes of the CT in HU, and where the structure set's contours cut them.

Everything is turned so that rows run to the patient's left and columns to the back (LPS), whatever the position in the
scanner: axial planes show R on the left and A on top, coronal ones R on the left and H on top, sagittal ones A on the
left and H on top. A plane's coordinates are mm from its upper left corner, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import contourpy
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.series import gate, read_instance, read_slices, read_volume
from contourd.dicom.reading.viewing import displayable_series
from contourd.dicom.rtstruct.reader import ReadROI, extent, rasterise, read_structure_set
from contourd.errors import SeriesUnusable
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import FloatArray, Grid
from contourd.reasons.catalogue import HoldReason

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
# Letters at the left, right, upper and lower edge.
LETTERS: Mapping[Plane, str] = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
AXIS: Mapping[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
WHITE = (255, 255, 255)
CHECK = "CHECK"
NOTHING_HU = -32768
# Between the numbers of a structure set's organs and those of a shadow's, which has as many organs at most.
BESIDE = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class SceneROI:
    """One ROI of the structure set.

    Attributes
    ----------
    loops
        Slice -> its contours, each (n, 2): x and y in mm on the axial plane.
    mask
        The voxels whose centres lie inside, on the turned grid.
    remark
        Why it is labelled CHECK; empty where it is not.
    shadow
        The model that drew it, where it is no organ of the structure set but a shadow's; else empty.
    """

    number: int
    name: str
    colour: str
    volume_cc: float
    remark: str
    loops: Mapping[int, tuple[FloatArray, ...]]
    mask: MaskInBox
    shadow: str = ""

    def areas(self, plane: Plane, length: int) -> NDArray[np.int64]:
        """Count its voxels on each plane across an axis."""
        axis = AXIS[plane]
        counts = np.zeros(length, dtype=np.int64)
        counts[self.mask.box[axis]] = self.mask.mask.sum(axis=tuple(a for a in range(3) if a != axis))
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One CT with its structure set, turned to LPS.

    Attributes
    ----------
    gaps
        Of a series that is held: z of the slices that are missing, those of each gap together.
    left_out
        Images of it that are not shown.
    """

    grid: Grid
    hu: NDArray[np.int16]
    organs: tuple[SceneROI, ...]
    gaps: tuple[tuple[float, ...], ...] = ()
    left_out: int = 0

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.hu.nbytes + sum(o.mask.mask.nbytes for o in self.organs)

    def count(self, plane: Plane) -> int:
        """Return the number of planes."""
        return self.grid.shape[AXIS[plane]]

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Return width and height."""
        dy, dx = self.grid.pixel_spacing_mm
        levels, dz = self.grid.even_slices()
        width = self.grid.shape[2] * dx
        depth = self.grid.shape[1] * dy
        height = len(levels) * dz
        return {"axial": (width, depth), "coronal": (width, height), "sagittal": (depth, height)}[plane]

    def pixels(self, plane: Plane, index: int) -> NDArray[np.int16]:
        """Cut the CT: Hounsfield units (rows, columns); across the slices, the nearest at each of equal steps."""
        down = self.grid.even_slices()[0][::-1]
        if plane == "axial":
            return np.ascontiguousarray(self.hu[index])
        cut = np.ascontiguousarray(self.hu[down, index] if plane == "coronal" else self.hu[down, :, index])
        cut[self._is_missing()] = NOTHING_HU
        return cut

    def _is_missing(self) -> NDArray[np.bool_]:
        """Return for each row of a coronal or sagittal plane whether no slice is there to be shown in it."""
        levels, dz = self.grid.even_slices()
        depths_mm = (np.arange(len(levels)) + 0.5) * dz
        missing = np.zeros(len(levels), dtype=bool)
        for upper, lower in self.gap_depths_mm():
            missing |= (depths_mm > upper) & (depths_mm < lower)
        return missing

    def gap_depths_mm(self) -> list[tuple[float, float]]:
        """Return the bands of a coronal or sagittal plane that no slice covers: mm from the upper edge."""
        z, dz = self.grid.slice_origins_mm[:, 2], self.grid.even_slices()[1]
        bands = []
        for gap in self.gaps:
            below = z[z < gap[0]].max()
            half_mm = (gap[0] - below) / 2
            top = z[-1] + dz / 2
            bands.append((top - gap[-1] - half_mm, top - gap[0] + half_mm))
        return bands

    def outlines(self, plane: Plane, index: int) -> dict[int, str]:
        """Return the organs' number -> SVG path in mm; axial from the contours themselves, else cuts of the voxels."""
        paths = {}
        for organ in self.organs:
            loops = organ.loops.get(index, ()) if plane == "axial" else self._cut(organ.mask, plane, index)
            if loops:
                paths[organ.number] = "".join(_path(loop) for loop in loops)
        return paths

    def _cut(self, organ: MaskInBox, plane: Plane, index: int) -> Sequence[FloatArray]:
        z, y, x = organ.box
        across, along = (y, x) if plane == "coronal" else (x, y)
        step = self.grid.pixel_spacing_mm[1 if plane == "coronal" else 0]
        if not across.start <= index < across.stop:
            return ()
        k = index - across.start
        cut = np.pad((organ.mask[:, k] if plane == "coronal" else organ.mask[:, :, k]).astype(np.float64), 1)
        columns_mm = (np.arange(along.start - 1, along.stop + 1) + 0.5) * step
        rows_mm = self._depth_mm(np.arange(z.start - 1, z.stop + 1))
        generator = contourpy.contour_generator(columns_mm, rows_mm, cut, line_type=contourpy.LineType.Separate)
        return [np.asarray(line) for line in generator.lines(0.5)]

    def _depth_mm(self, k: NDArray[np.intp]) -> FloatArray:
        """Map slices, one beyond either end allowed, to mm from the upper edge of a coronal or sagittal plane."""
        z, dz = self.grid.slice_positions_mm, self.grid.even_slices()[1]
        ends = np.concatenate([[z[0] - dz], z, [z[-1] + dz]])
        return np.asarray(z[-1] + dz / 2 - ends[k + 1])

    def places(self, plane: Plane) -> FloatArray:
        """Return where each plane lies, in patient coordinates along its own axis (z, y or x), mm."""
        if plane == "axial":
            return np.asarray(self.grid.slice_origins_mm[:, 2])
        axis = 1 if plane == "coronal" else 0
        step = self.grid.pixel_spacing_mm[0 if plane == "coronal" else 1]
        return np.asarray(self.grid.slice_origins_mm[0, axis] + np.arange(self.count(plane)) * step)

    def depths_mm(self) -> FloatArray:
        """Return where each axial plane crosses the others: mm from their upper edge."""
        return self._depth_mm(np.arange(self.grid.shape[0]))

    def first_look(self, plane: Plane) -> int:
        """Choose the plane that shows most organs, and of those the one with the largest parts of them."""
        if not self.organs and self.gaps and plane == "axial":
            return int(np.searchsorted(self.grid.slice_origins_mm[:, 2], self.gaps[0][0])) - 1  # below the first gap
        if not self.organs:
            return self.count(plane) // 2
        areas = np.stack([o.areas(plane, self.count(plane)) for o in self.organs])
        score = (areas > 0).sum(axis=0) + (areas / areas.max(axis=1, keepdims=True).clip(1)).sum(axis=0) / len(areas)
        return int(np.argmax(score))


def open_scene(
    images: Sequence[Path],
    structure_set: Path | None,
    limit_bytes: int,
    shadows: Sequence[tuple[str, Path]] = (),
) -> Scene:
    """Read a job's pictures from its spooled files.

    Parameters
    ----------
    shadows
        Of each model that contoured the series beside: its name, and its structure set; one that cannot be read is
        left out.

    Raises
    ------
    SeriesUnusable
        The images do not make a series, cannot be read, or are larger than ``limit_bytes``.
    """
    try:
        series = gate([read_instance(path) for path in images])
        dataset = read_dicom(structure_set) if structure_set is not None else None
    except OSError as error:
        raise SeriesUnusable(HoldReason.SPOOL_UNREADABLE, said=error.strerror) from error
    _refuse_large(series.grid, limit_bytes)
    volume = read_volume(series)
    grid, turn = volume.grid.canonical()
    organs = _organs(dataset, grid) if dataset is not None else ()
    for number, (model, path) in enumerate(shadows, 1):
        with suppress(OSError, SeriesUnusable, *UNREADABLE):
            own = _organs(read_dicom(path), grid)
            organs += tuple(replace(o, number=o.number + number * BESIDE, shadow=model) for o in own)
    return Scene(grid, np.ascontiguousarray(turn.apply(volume.hu)), organs)


def open_held_scene(images: Sequence[Path], limit_bytes: int) -> Scene:
    """Read what is there of a series that is held.

    Raises
    ------
    SeriesUnusable
        Nothing can be shown of it, or it is larger than ``limit_bytes``.
    """
    found = displayable_series(images)
    _refuse_large(found.grid, limit_bytes)
    volume = read_slices(found.instances, found.grid)
    grid, turn = volume.grid.canonical()
    gaps = _together(found.missing_mm, found.grid.slice_origins_mm[:, 2])
    return Scene(grid, np.ascontiguousarray(turn.apply(volume.hu)), (), gaps, found.left_out)


def _together(missing_mm: Sequence[float], z: FloatArray) -> tuple[tuple[float, ...], ...]:
    """Part the missing positions into gaps: those that lie between the same two slices."""
    gaps: dict[int, tuple[float, ...]] = {}
    for place in sorted(missing_mm):
        k = int(np.searchsorted(z, place))
        gaps[k] = (*gaps.get(k, ()), place)
    return tuple(gaps.values())


def _refuse_large(grid: Grid, limit_bytes: int) -> None:
    needed = int(np.prod(grid.shape)) * 2
    if needed > limit_bytes:
        raise SeriesUnusable(HoldReason.TOO_LARGE_TO_SHOW, mb=needed / 1e6, limit_mb=limit_bytes / 1e6)


def _organs(dataset: Dataset, grid: Grid) -> tuple[SceneROI, ...]:
    colours = {
        int(item.ReferencedROINumber): tuple(int(v) for v in item.get("ROIDisplayColor") or WHITE)
        for item in dataset.get("ROIContourSequence") or ()
    }
    remarks = {
        int(item.ReferencedROINumber): str(item.get("ROIObservationDescription", "") or "to be looked at first")
        for item in dataset.get("RTROIObservationsSequence") or ()
        if item.get("ROIObservationLabel") == CHECK
    }
    return tuple(
        _organ(roi, grid, colours.get(roi.number, WHITE), remarks.get(roi.number, ""))
        for roi in read_structure_set(dataset)
    )


def _organ(roi: ReadROI, grid: Grid, colour: tuple[int, ...], remark: str) -> SceneROI:
    box = extent(roi.contours, grid)
    mask = MaskInBox(box, rasterise(roi.contours, grid, box))
    loops: dict[int, tuple[FloatArray, ...]] = {}
    dy, dx = grid.pixel_spacing_mm
    for points in roi.contours:
        index = grid.to_index(points)
        k = int(np.rint(index[:, 0].mean()))
        loop = np.column_stack([(index[:, 2] + 0.5) * dx, (index[:, 1] + 0.5) * dy])
        loops[k] = (*loops.get(k, ()), loop)
    volume_cc = grid.volume_mm3(mask.mask, box[0].start) / 1000
    return SceneROI(roi.number, roi.name, "#{:02x}{:02x}{:02x}".format(*colour), volume_cc, remark, loops, mask)


def _path(loop: FloatArray) -> str:
    points = loop[:-1] if len(loop) > 1 and np.array_equal(loop[0], loop[-1]) else loop
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + "Z"
