"""From a CT volume to the network's input and from its probabilities back: a pair that training and inference share.

The training CTs are masked to the patient, clinical ones are not: couch, mask and air outside the body are set to air,
and the head and neck are cut out around the body's own midline, so that both look alike to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from contourd.imaging.grid import Box, FloatArray, Grid, Reorientation
from contourd.imaging.resample import Axes, resample
from contourd.imaging.volume import Volume
from contourd.model.body import PatientMask, find_patient

MIDLINE_LENGTH_MM, HEAD_MM = 200.0, 120.0
# The network pools up to three times by two.
ALIGNED = 8
REMAINDER = 0.002
# A finer lattice than any CT's would fill the memory.
Step = Annotated[float, Field(ge=0.5, le=50)]
Hounsfield = Annotated[float, Field(ge=-32768, le=32767)]


class PreprocessConfig(BaseModel):
    """What fixes the network's input; part of the bundle.

    spacing_mm
        Of the network's lattice, (z, y, x).
    window_hu
        Hounsfield units that map to -1 and +1; values beyond are clipped.
    half_width_mm
        The lattice reaches this far to either side of the body's midline.
    length_mm
        And this far down from the top of the body.
    margin_mm
        Air kept around the body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm: tuple[Step, Step, Step] = (4.0, 4.0, 4.0)
    window_hu: tuple[Hounsfield, Hounsfield] = (-250.0, 500.0)
    half_width_mm: float = Field(default=120.0, gt=0, le=500)
    length_mm: float = Field(default=420.0, gt=0, le=2500)
    margin_mm: float = Field(default=8.0, ge=0, le=200)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The network's input, and what leads back to the CT's grid.

    Attributes
    ----------
    image
        float32 (d, h, w), -1 to 1, axes towards head, back and left.
    axes_mm
        Positions of the lattice along the canonical axes of ``source``, from the centre of its first voxel.
    source
        The CT's own grid; ``canonical`` is the same grid with axes turned towards head, back and left.
    beyond
        The part of the head that lies beside the lattice, left or right of it.
    """

    image: NDArray[np.float32]
    axes_mm: Axes
    source: Grid
    canonical: Grid
    turn: Reorientation
    beyond: float = 0.0


def grid_axes_mm(grid: Grid) -> Axes:
    """Positions of a canonical grid's slices, rows and columns, in mm from its first voxel."""
    dy, dx = grid.pixel_spacing_mm
    return (
        grid.slice_positions_mm,
        np.arange(grid.shape[1], dtype=float) * dy,
        np.arange(grid.shape[2], dtype=float) * dx,
    )


def lattice_axes_mm(grid: Grid, spacing_mm: tuple[float, float, float], half_voxel: bool = False) -> Axes:
    """Positions of a lattice of the given spacing that fills a canonical grid, centred on it.

    With ``half_voxel`` each sample lies in the middle of eight of the lattice without it, the outermost ones beyond
    the ends.
    """

    def fill(axis: NDArray[np.float64], step: float) -> NDArray[np.float64]:
        length = float(axis[-1] - axis[0])
        count = int(length // step) + 1
        first = axis[0] + (length - (count - 1) * step) / 2
        if half_voxel:
            first, count = first - step / 2, count + 1
        return np.asarray(first + np.arange(count) * step)

    z, y, x = (fill(a, s) for a, s in zip(grid_axes_mm(grid), spacing_mm, strict=True))
    return z, y, x


def _moved(axis_mm: FloatArray, part: slice, step: float) -> FloatArray:
    """Return the positions half a step before those of a part of an axis, and where it ends with the CT, one behind."""
    moved = axis_mm[part] - step / 2
    return moved if part.stop < len(axis_mm) else np.append(moved, axis_mm[-1] + step / 2)


def _extent(axis_mm: FloatArray, mass: NDArray[np.int64]) -> tuple[float, float]:
    """Return between which positions all of a mass lies but for a REMAINDER at either end."""
    share = np.cumsum(mass) / mass.sum()
    return float(axis_mm[int((share > REMAINDER).argmax())]), float(axis_mm[int((share >= 1 - REMAINDER).argmax())])


def _part(low: float, high: float, axis_mm: FloatArray, step: float, whole: int) -> slice:
    """Return the part of an axis from one position to another, widened to whole multiples of so many samples."""
    start = max(0, floor((low - axis_mm[0]) / step)) // whole * whole
    stop = -(-(ceil((high - axis_mm[0]) / step) + 1) // whole) * whole
    return slice(start, min(stop, len(axis_mm)))


def _reach(source_mm: FloatArray, target_mm: FloatArray, step: float) -> slice:
    """Return which samples count for a lattice's axis and for the one half a step beside it."""
    first = int(np.searchsorted(source_mm, target_mm[0] - 2 * step)) - 2
    last = int(np.searchsorted(source_mm, target_mm[-1] + 2 * step)) + 2
    return slice(max(0, first), last)


class Preprocess:
    """Volume -> network input, and probabilities -> the CT's own grid."""

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def prepare(self, volume: Volume, half_voxel: bool = False) -> Prepared:
        """Prepare one lattice: as ``lattices`` does.

        Parameters
        ----------
        half_voxel
            On the lattice that lies half a voxel beside the other along each axis.

        Raises
        ------
        SeriesUnusable
            No patient is in the volume.
        """
        return self.lattices(volume, (half_voxel,))[0]

    def lattices(self, volume: Volume, half_voxel: Sequence[bool] = (False, True)) -> tuple[Prepared, ...]:
        """Set everything outside of the body to air, cut out the head and neck, and resample it to each lattice.

        The patient is found once, and all lattices are cut at the same place: the box of the lattice that lies half
        a voxel beside begins half a voxel before the other's.

        Raises
        ------
        SeriesUnusable
            No patient is in the volume.
        """
        canonical, turn = volume.grid.canonical()
        hu = turn.apply(volume.hu)
        patient = find_patient(hu, canonical)
        axes = lattice_axes_mm(canonical, self.config.spacing_mm)
        box, beyond = self._head_and_neck(patient, axes)
        grid, steps = grid_axes_mm(canonical), self.config.spacing_mm
        z, y, x = (_reach(g, a[part], s) for g, a, part, s in zip(grid, axes, box, steps, strict=True))
        near = (grid[0][z], grid[1][y], grid[2][x])
        alone = patient.only(hu[z, y, x], near)
        low, high = self.config.window_hu
        found = []
        for moved in half_voxel:
            cut = tuple(_moved(a, part, s) if moved else a[part] for a, part, s in zip(axes, box, steps, strict=True))
            lattice = (cut[0], cut[1], cut[2])
            image = np.clip((resample(alone, near, lattice) - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32)
            found.append(Prepared(image, lattice, volume.grid, canonical, turn, beyond))
        return tuple(found)

    def _head_and_neck(self, patient: PatientMask, axes: Axes) -> tuple[Box, float]:
        """Return the box on the lattice, and the part of the head that lies beside it.

        Across the body it goes by where the mass is, and begins and ends at whole multiples of ALIGNED voxels: what
        little may be left of a couch moves neither it nor the places at which the network pools.
        """
        body, own = patient.body, patient.axes_mm
        slices = own[0][np.flatnonzero(body.any(axis=(1, 2)))[[0, -1]]]
        top = float(slices[1])
        front, back = _extent(own[1], body.sum(axis=(0, 2)))
        right, left = _extent(own[2], body.sum(axis=(0, 1)))
        upper = body[own[0] > top - MIDLINE_LENGTH_MM].sum(axis=1)  # (slices, columns)
        upper = upper[upper.any(axis=1)]
        midline = float(np.median(upper @ own[2] / upper.sum(axis=1)))
        reach, margin = self.config.half_width_mm, self.config.margin_mm
        wanted = (
            (max(float(slices[0]), top - self.config.length_mm), top),
            (front - margin, back + margin),
            (max(midline - reach, right - margin), min(midline + reach, left + margin)),
        )
        # Along the body the box ends where the body ends: the network has learnt that organs go on beyond it.
        z, y, x = (
            _part(*of, a, s, whole)
            for of, a, s, whole in zip(wanted, axes, self.config.spacing_mm, (1, ALIGNED, ALIGNED), strict=True)
        )
        head = body[own[0] > top - HEAD_MM].sum(axis=(0, 1))
        beside = (own[2] < axes[2][x][0]) | (own[2] > axes[2][x][-1])
        return (z, y, x), float(head[beside].sum() / head.sum())

    def restore(
        self, probability: NDArray[np.float32], prepared: Prepared, threshold: float = 0.5
    ) -> tuple[Box, NDArray[np.float32]]:
        """Bring one organ's probability back onto the CT's own grid, inside the box where it may reach ``threshold``.

        Parameters
        ----------
        probability
            float32 (d, h, w) on the network's lattice.

        Returns
        -------
        The box in the CT's array, one voxel of margin where the CT has it, and float32 probabilities inside it.
        An organ that was not found gives an empty box.
        """
        found = ndimage.find_objects((probability > threshold / 10).astype(np.uint8))
        if not found or probability.max() < threshold / 10:
            return (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), dtype=np.float32)
        parts = []
        targets = []
        sources = []
        grid = grid_axes_mm(prepared.canonical)
        for axis_mm, step, organ, ct_mm in zip(prepared.axes_mm, self.config.spacing_mm, found[0], grid, strict=True):
            part = slice(max(organ.start - 1, 0), min(organ.stop + 1, len(axis_mm)))
            low, high = axis_mm[part][0] - step / 2, axis_mm[part][-1] + step / 2
            inside = np.flatnonzero((ct_mm >= low) & (ct_mm <= high))
            ct = slice(max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 2, len(ct_mm)))
            parts.append(part)
            sources.append(axis_mm[part])
            targets.append(ct)
        positions = tuple(a[t] for a, t in zip(grid, targets, strict=True))
        restored = resample(
            probability[parts[0], parts[1], parts[2]],
            (sources[0], sources[1], sources[2]),
            (positions[0], positions[1], positions[2]),
        )
        box = prepared.turn.revert_box((targets[0], targets[1], targets[2]), prepared.canonical.shape)
        return box, prepared.turn.revert(restored)
