"""From a CT volume to the network's input and from its probabilities back: a pair that training and inference share.

The training CTs are masked to the patient, clinical ones are not: couch, mask and air outside the body are set to air,
and the head and neck are cut out around the body's own midline, so that both look alike to the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Box, Grid, Reorientation
from contourd.imaging.resample import Axes, resample
from contourd.imaging.volume import AIR_HU, Volume

BODY_THRESHOLD_HU = -350
MIDLINE_LENGTH_MM = 200.0
SMALLEST_BODY_CM3 = 500.0
# Neighbours on a plane that share a side.
IN_PLANE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], dtype=bool)
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
    """

    image: NDArray[np.float32]
    axes_mm: Axes
    source: Grid
    canonical: Grid
    turn: Reorientation


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


def body_mask(hu: NDArray[np.float32], voxel_mm3: float) -> NDArray[np.bool_]:
    """Find the patient on the network's lattice, without couch, head rest and thin masks.

    Parameters
    ----------
    hu
        (d, h, w) at a few mm.
    voxel_mm3
        Volume of a voxel.

    Raises
    ------
    SeriesUnusable
        Nothing of the size of a head is there.
    """
    tissue = np.pad(hu > BODY_THRESHOLD_HU, 1, mode="edge")
    opened = _dilated(_eroded(tissue))[1:-1, 1:-1, 1:-1]
    labels, count = ndimage.label(opened)
    if count:
        sizes = np.bincount(labels.ravel())[1:]
        body = labels == int(np.argmax(sizes)) + 1
    if not count or body.sum() * voxel_mm3 < SMALLEST_BODY_CM3 * 1000:
        raise SeriesUnusable("no patient found in the CT: nothing of the size of a head; check what was scanned")
    return _filled(_dilated(body))


def _eroded(planes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take from the mask on each plane what is beside a pixel of no mask, or at the edge."""
    eroded = np.zeros_like(planes)
    inner = planes[:, 1:-1, 1:-1] & planes[:, :-2, 1:-1] & planes[:, 2:, 1:-1]
    eroded[:, 1:-1, 1:-1] = inner & planes[:, 1:-1, :-2] & planes[:, 1:-1, 2:]
    return eroded


def _dilated(planes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add to the mask on each plane what is beside a pixel of it."""
    dilated = planes.copy()
    dilated[:, 1:] |= planes[:, :-1]
    dilated[:, :-1] |= planes[:, 1:]
    dilated[:, :, 1:] |= planes[:, :, :-1]
    dilated[:, :, :-1] |= planes[:, :, 1:]
    return dilated


def _filled(planes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes of the mask on each plane: all that is not joined to the plane's edge."""
    labels, count = ndimage.label(~planes, IN_PLANE)
    outside = np.zeros(count + 1, dtype=bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[edge] = True
    outside[0] = False
    return np.asarray(~outside[labels])


class Preprocess:
    """Volume -> network input, and probabilities -> the CT's own grid."""

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def prepare(self, volume: Volume, half_voxel: bool = False) -> Prepared:
        """Resample, set everything outside of the body to air, and cut out the head and neck.

        Parameters
        ----------
        half_voxel
            On the lattice that lies half a voxel beside the other along each axis.

        Raises
        ------
        SeriesUnusable
            No patient is in the volume.
        """
        canonical, turn = volume.grid.canonical()
        axes = lattice_axes_mm(canonical, self.config.spacing_mm, half_voxel)
        hu = resample(turn.apply(volume.hu), grid_axes_mm(canonical), axes)
        body = body_mask(hu, float(np.prod(self.config.spacing_mm)))
        hu[~body] = AIR_HU
        box = self._head_and_neck(body)
        low, high = self.config.window_hu
        image = np.clip((hu[box] - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32)
        z, y, x = (axis[part] for axis, part in zip(axes, box, strict=True))
        return Prepared(image, (z, y, x), volume.grid, canonical, turn)

    def _head_and_neck(self, body: NDArray[np.bool_]) -> Box:
        dz, dy, dx = self.config.spacing_mm
        slices, rows, columns = (np.flatnonzero(body.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
        top = int(slices[-1])
        bottom = max(int(slices[0]), top - int(self.config.length_mm / dz))
        upper = np.asarray(
            body[max(bottom, top - int(MIDLINE_LENGTH_MM / dz)) : top + 1].any(axis=1)
        )  # (slices, columns)
        centres = [float(np.flatnonzero(row)[[0, -1]].mean()) for row in upper if row.any()]
        midline, half = float(np.median(centres)), self.config.half_width_mm / dx
        margin = self.config.margin_mm
        left = max(int(midline - half), int(columns[0] - margin / dx), 0)
        right = min(int(midline + half) + 1, int(columns[-1] + margin / dx) + 1, body.shape[2])
        front, back = max(int(rows[0] - margin / dy), 0), min(int(rows[-1] + margin / dy) + 1, body.shape[1])
        return slice(bottom, top + 1), slice(front, back), slice(left, right)

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
        parts, targets, sources = [], [], []
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
