"""The reference patient: a population-mean head and neck as a clinical CT series, with its mean contours.

It is the median of many registered CTs, so it is nobody's image; ``trainer.population`` made it, and
docs/reference_patient.md says from what. The demo contours it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.imaging.grid import Grid
from contourd.imaging.resample import resample
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.transforms import grid_axes_mm

FILE = "reference_patient.npz"
LEAST_HU, STEP_HU = -1024, 10
MATRIX = 512
PIXEL_MM = 0.9765625
SLICE_MM = 2.5
NOISE_HU = 11.0
COUCH_GAP_MM = 6.0
COUCH_MM = 40.0
COUCH_SHELL_MM = 3.0
COUCH_WIDTH_MM = 420.0
COUCH_SHELL_HU, COUCH_FOAM_HU = 60, -930
IDENTITY = SeriesIdentity("REFERENCE-1", "Reference^Patient", "Head and neck population mean")


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePatient:
    """What the package ships.

    Attributes
    ----------
    volume
        The mean CT at its own coarse grid, no couch, no noise.
    organs
        TG-263 name -> part of each voxel that belongs to the organ, float32 (z, y, x), 0 to 1.
    provenance
        Data set, cases, method and versions.
    """

    volume: Volume
    organs: Mapping[str, NDArray[np.float32]]
    provenance: Mapping[str, Any]


def load_reference() -> ReferencePatient:
    """Read the packaged file."""
    with files("contourd").joinpath(FILE).open("rb") as file, np.load(file) as arrays:
        hu = arrays["hu"].astype(np.int16) * STEP_HU + LEAST_HU
        dz, dy, dx = (float(s) for s in arrays["spacing_mm"])
        slices, rows, columns = hu.shape
        origin = (-dx * (columns - 1) / 2, -dy * (rows - 1) / 2, -dz * (slices - 1) / 2)
        grid = Grid.regular((slices, rows, columns), (dz, dy, dx), origin)
        organs = {str(n): a.astype(np.float32) / 255 for n, a in zip(arrays["names"], arrays["organs"], strict=True)}
        return ReferencePatient(Volume(grid, hu), organs, json.loads(str(arrays["provenance"])))


def mean_organs(reference: ReferencePatient) -> dict[str, NDArray[np.bool_]]:
    """Return the mean organs on the reference's own grid: TG-263 name -> bool (z, y, x), of the organ's mean volume."""
    return {name: organ >= _level(organ) for name, organ in reference.organs.items()}


def clinical_grid(reference: ReferencePatient) -> Grid:
    """Build the grid of the series: 512 x 512 pixels of 0.98 mm around the patient, slices of 2.5 mm."""
    extent_mm = float(reference.volume.grid.slice_positions_mm[-1])
    slices = int(extent_mm / SLICE_MM) + 1
    corner = -PIXEL_MM * (MATRIX - 1) / 2
    return Grid.regular((slices, MATRIX, MATRIX), (SLICE_MM, PIXEL_MM, PIXEL_MM), (corner, corner, -extent_mm / 2))


def reference_volume(seed: int = 0) -> Volume:
    """Make the clinical volume: up-sampled, on a couch, with the correlated noise of a soft-tissue kernel."""
    reference = load_reference()
    grid = clinical_grid(reference)
    hu = _on(grid, reference, reference.volume.hu.astype(np.float32) - AIR_HU) + AIR_HU
    rows_mm = grid.slice_origins_mm[0, 1] + np.arange(MATRIX) * PIXEL_MM
    columns_mm = grid.slice_origins_mm[0, 0] + np.arange(MATRIX) * PIXEL_MM
    body_rows = rows_mm[(hu > -300).any(axis=(0, 2))]
    top = float(body_rows.max()) + COUCH_GAP_MM
    depth = rows_mm[:, None] - top + 0 * columns_mm[None, :]
    board = (depth >= 0) & (depth <= COUCH_MM) & (np.abs(columns_mm) <= COUCH_WIDTH_MM / 2)[None, :]
    shell = board & ~ndimage.binary_erosion(board, iterations=round(COUCH_SHELL_MM / PIXEL_MM))
    hu[:, board] = COUCH_FOAM_HU
    hu[:, shell] = COUCH_SHELL_HU
    rng = np.random.default_rng(seed)
    for plane in hu:
        noise = ndimage.gaussian_filter(rng.standard_normal(plane.shape), 0.9)
        plane += noise / noise.std() * NOISE_HU
    return Volume(grid, np.rint(hu).clip(AIR_HU, 3071).astype(np.int16))


def reference_series(folder: Path, seed: int = 0) -> Path:
    """Write the clinical volume as a CT series, one file per slice."""
    return write_ct_series(reference_volume(seed), folder, IDENTITY)


def reference_masks(grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Return the mean organs on a clinical grid: TG-263 name -> bool (z, y, x).

    Each is cut at the level that keeps the organ's mean volume: at 0.5 a thin organ would lose much of it.
    """
    reference = load_reference()
    return {name: _on(grid, reference, organ) >= _level(organ) for name, organ in reference.organs.items()}


def _level(organ: NDArray[np.float32]) -> float:
    kept = round(float(organ.sum()))
    return float(np.partition(organ, organ.size - kept, axis=None)[organ.size - kept])


def _on(grid: Grid, reference: ReferencePatient, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resample an array of the reference, zero outside of it, to a grid that is parallel to it."""
    source = reference.volume.grid
    shift = grid.slice_origins_mm[0] - source.slice_origins_mm[0]
    padded = np.pad(array, ((0, 0), (1, 1), (1, 1)))
    z, y, x = grid_axes_mm(source)
    dy, dx = source.pixel_spacing_mm
    wider = (z, np.arange(-1.0, len(y) + 1) * dy, np.arange(-1.0, len(x) + 1) * dx)
    target = grid_axes_mm(grid)
    return resample(padded, wider, (target[0] + shift[2], target[1] + shift[1], target[2] + shift[0]))
