"""The acceptance phantom: solids whose volumes and centroids are known by formula, as a CT series with a structure set.

A physicist sends it to the planning system and compares what is shown there with the sheet. The solids are fixed to the
patient (LPS, DICOM PS3.3 C.7.6.2.1.1), so that they have the same coordinates whichever way the patient was scanned.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from pydicom.dataset import FileDataset

from contourd import __version__
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.instance import find_series
from contourd.dicom.reading.series import gate
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.writer import Provenance, save_structure_set, structure_set_dataset
from contourd.imaging.contours import ROI, HoleStyle, MaskInBox, StructureSet, trace
from contourd.imaging.grid import Box, FloatArray, Grid
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.structures import Structure
from contourd.profiles import Profile

PATIENT_NAME = "CONTOURD^ACCEPTANCE"
LABEL = "contourd phantom, not a patient"
# x to the left, y to the back, z to the head; nothing is symmetric, so that no exchange or flip of axes is hidden.
MIDDLE_MM = (10.0, -25.0, 40.0)
BODY_HALF_AXES_MM = (100.0, 80.0)
TISSUE_HU = 20
ROWS = 216
COLUMNS = 256
SLICES = 64
PIXEL_MM, SLICE_MM = 1.0, 2.0
# What a planning system may make of it: some leave out half a slice at either end of a solid, 1 in 20 of its length.
VOLUME_TOLERANCE, CENTROID_TOLERANCE_MM = 0.05, 1.0
# The probability falls from 1 to 0 across this width, and is 0.5 on the surface.
RAMP_MM = 4.0
# ImageOrientationPatient along a row and along a column (PS3.3 C.7.3.1.1.2), and whether slices begin at the head.
POSITIONS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float], bool]] = MappingProxyType(
    {
        "HFS": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), False),
        "FFS": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), True),
    }
)


@dataclass(frozen=True, slots=True)
class Block:
    """A box along the axes.

    Attributes
    ----------
    centre_mm
        (x, y, z) from the phantom's middle.
    sides_mm
        Along x, y, z.
    """

    centre_mm: tuple[float, float, float]
    sides_mm: tuple[float, float, float]

    @property
    def volume_mm3(self) -> float:
        """Product of the sides."""
        return math.prod(self.sides_mm)

    def depth_mm(self, x: FloatArray, y: FloatArray, z: float) -> FloatArray:
        """Return how far points of a slice (y, x) lie inside, in the plane; negative outside."""
        (cx, cy, cz), (a, b, c) = self.centre_mm, self.sides_mm
        if abs(z - cz) >= c / 2:
            return np.full(np.broadcast_shapes(x.shape, y.shape), -RAMP_MM)
        return np.minimum(a / 2 - np.abs(x - cx), b / 2 - np.abs(y - cy))


@dataclass(frozen=True, slots=True)
class Ball:
    """A ball, its centre (x, y, z) from the phantom's middle."""

    centre_mm: tuple[float, float, float]
    radius_mm: float

    @property
    def volume_mm3(self) -> float:
        """Four thirds of pi times the radius cubed."""
        return 4 / 3 * math.pi * self.radius_mm**3

    def depth_mm(self, x: FloatArray, y: FloatArray, z: float) -> FloatArray:
        """As of a block."""
        cx, cy, cz = self.centre_mm
        square = self.radius_mm**2 - (z - cz) ** 2
        if square <= 0:
            return np.full(np.broadcast_shapes(x.shape, y.shape), -RAMP_MM)
        return np.asarray(math.sqrt(square) - np.hypot(x - cx, y - cy))


@dataclass(frozen=True, slots=True)
class Tube:
    """A tube along z, its centre (x, y, z) from the phantom's middle: every slice of it has a hole."""

    centre_mm: tuple[float, float, float]
    outer_mm: float
    inner_mm: float
    length_mm: float

    @property
    def volume_mm3(self) -> float:
        """Area of the ring times the length."""
        return math.pi * (self.outer_mm**2 - self.inner_mm**2) * self.length_mm

    def depth_mm(self, x: FloatArray, y: FloatArray, z: float) -> FloatArray:
        """As of a block."""
        cx, cy, cz = self.centre_mm
        if abs(z - cz) >= self.length_mm / 2:
            return np.full(np.broadcast_shapes(x.shape, y.shape), -RAMP_MM)
        distance = np.hypot(x - cx, y - cy)
        return np.minimum(self.outer_mm - distance, distance - self.inner_mm)


@dataclass(frozen=True, slots=True)
class PhantomROI:
    """One ROI of the phantom: parts that do not touch.

    Attributes
    ----------
    colour
        RGB, 0 to 255.
    where
        What a person sees, in words.
    """

    name: str
    parts: tuple[Block | Ball | Tube, ...]
    hu: int
    colour: tuple[int, int, int]
    where: str

    @property
    def volume_cc(self) -> float:
        """By formula."""
        return sum(part.volume_mm3 for part in self.parts) / 1000

    @property
    def centroid_mm(self) -> tuple[float, float, float]:
        """By formula, patient coordinates (x, y, z) LPS."""
        whole = sum(part.volume_mm3 for part in self.parts)
        moments = [sum(part.centre_mm[axis] * part.volume_mm3 for part in self.parts) for axis in range(3)]
        x, y, z = (middle + moment / whole for middle, moment in zip(MIDDLE_MM, moments, strict=True))
        return x, y, z

    def probability(self, grid: Grid) -> FloatArray:
        """Return (z, y, x) on a grid: 1 inside, 0 outside, 0.5 where the surface cuts the plane of a slice."""
        rows, columns = (np.arange(n, dtype=np.float64) for n in grid.shape[1:])
        origins = grid.slice_origins_mm - np.asarray(MIDDLE_MM)
        planes = []
        for x0, y0, z in origins:
            x = (x0 + columns * grid.pixel_spacing_mm[1] * grid.row_direction[0])[None, :]
            y = (y0 + rows * grid.pixel_spacing_mm[0] * grid.column_direction[1])[:, None]
            depth = np.max([part.depth_mm(x, y, float(z)) for part in self.parts], axis=0)
            planes.append(np.clip(0.5 + depth / RAMP_MM, 0, 1))
        return np.stack(planes)


# Every end lies half-way between two slices, so that slices of 2 mm fill a solid exactly.
SOLIDS = (
    PhantomROI(
        "Cube_L", (Block((50, -20, 30), (40, 40, 40)),), 300, (255, 64, 64), "on the patient's left, to the head"
    ),
    PhantomROI("Sphere_R", (Ball((-45, -10, -24), 20),), 500, (64, 160, 255), "on the patient's right, to the feet"),
    PhantomROI(
        "Ring_Post", (Tube((0, 35, -30), 25, 12, 40),), 700, (64, 208, 64), "at the back, to the feet; a hole in it"
    ),
    PhantomROI(
        "TwoParts",
        (Block((-40, -15, 30), (20, 20, 40)), Block((-5, -50, 34), (10, 10, 40))),
        150,
        (255, 192, 0),
        "to the head: a large part on the right, a small one in front",
    ),
)
CATALOGUE: Mapping[str, Structure] = MappingProxyType({s.name: Structure(s.name, (), s.colour) for s in SOLIDS})


@dataclass(frozen=True, slots=True, eq=False)
class WrittenPhantom:
    """A phantom on disk.

    Attributes
    ----------
    images
        The slices' files.
    structure_set
        The file of the structure set.
    """

    position: str
    patient_id: str
    images: tuple[Path, ...]
    structure_set: Path


def phantom_grid(position: str) -> Grid:
    """Return the grid of a phantom in a patient position of POSITIONS."""
    row, column, from_the_head = POSITIONS[position]
    corner = np.asarray(MIDDLE_MM)
    corner = corner - np.asarray(row) * PIXEL_MM * (COLUMNS - 1) / 2 - np.asarray(column) * PIXEL_MM * (ROWS - 1) / 2
    origins = np.tile(corner, (SLICES, 1))
    steps = (np.arange(SLICES) - (SLICES - 1) / 2) * SLICE_MM
    origins[:, 2] += -steps if from_the_head else steps
    return Grid((SLICES, ROWS, COLUMNS), (PIXEL_MM, PIXEL_MM), origins, row, column)


def phantom_volume(grid: Grid) -> Volume:
    """Make the CT: an oval trunk of soft tissue in air, with the solids."""
    points = grid.to_patient(np.indices((1, *grid.shape[1:])).reshape(3, -1).T.astype(float)) - np.asarray(MIDDLE_MM)
    a, b = BODY_HALF_AXES_MM
    trunk = ((points[:, 0] / a) ** 2 + (points[:, 1] / b) ** 2 <= 1).reshape(grid.shape[1:])
    hu = np.broadcast_to(np.where(trunk, TISSUE_HU, AIR_HU + 24), grid.shape).astype(np.int16)
    for solid in SOLIDS:
        hu[solid.probability(grid) >= 0.5] = solid.hu
    return Volume(grid, hu)


def write_phantom(folder: Path, position: str, profile: Profile) -> WrittenPhantom:
    """Write the CT series and its structure set in a profile, and read the structure set back as every other.

    Raises
    ------
    StructureSetRejected
        What was written does not read back as it was drawn.
    """
    patient_id = f"CONTOURD-{__version__}-{position}"  # part of every UID: each version's phantom is one of its own
    identity = SeriesIdentity(patient_id, f"{PATIENT_NAME}^{position}", f"{LABEL} {position}", position, "HEAD")
    images = write_ct_series(phantom_volume(phantom_grid(position)), folder / "ct", identity)
    (instances,) = find_series(images).values()
    series = gate(instances)
    whole: Box = (slice(0, SLICES), slice(0, ROWS), slice(0, COLUMNS))
    rois, masks = [], {}
    for solid in SOLIDS:
        probability = solid.probability(series.grid).astype(np.float32)
        rois.append(ROI(solid.name, trace(probability, whole, series.grid, holes=HoleStyle(profile.holes)), 0.0))
        masks[profile.name_of(solid.name)] = MaskInBox(whole, probability >= 0.5)
    model_hash, settings_hash = (hashlib.sha256(s.encode()).hexdigest() for s in (__version__, profile.identity()))
    provenance = Provenance.of_one("acceptance", __version__, model_hash, settings_hash)
    dataset = structure_set_dataset(StructureSet(tuple(rois)), series, provenance, CATALOGUE, profile)
    _label(dataset, position)
    check_structure_set(dataset, series, masks)
    save_structure_set(dataset, folder / "rtstruct.dcm")
    return WrittenPhantom(position, patient_id, tuple(sorted(images.iterdir())), folder / "rtstruct.dcm")


def _label(dataset: FileDataset, position: str) -> None:
    """Write that it is a phantom wherever a structure set says what it is; the label stays the profile's."""
    dataset.SeriesDescription = f"{LABEL} {position}"
    dataset.StructureSetDescription = f"{LABEL} {position}: known solids, to accept a destination with"
