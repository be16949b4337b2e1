"""Synthetic CT series for tests: an asymmetric phantom that is fixed to the patient, whichever way its slices lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import Series, find_series, gate
from contourd.dicom.rtstruct.writer import Provenance, structure_set_dataset
from contourd.imaging.contours import ROI, MaskInBox, StructureSet, trace
from contourd.imaging.grid import Grid
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.structures import catalogue

Vector = tuple[float, float, float]

# ImageOrientationPatient: along a row, along a column (PS3.3 C.7.3.1.1.2). L: left side down; R: right side down.
ORIENTATIONS: Mapping[str, tuple[Vector, Vector]] = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
    "HFDL": ((0, -1, 0), (1, 0, 0)),
    "HFDR": ((0, 1, 0), (-1, 0, 0)),
    "FFDL": ((0, -1, 0), (-1, 0, 0)),
    "FFDR": ((0, 1, 0), (1, 0, 0)),
}

# Balls of bone in soft tissue, no two alike: centre (x, y, z) LPS mm and radius mm. Left, right and back, high and low.
BALLS: Mapping[str, tuple[Vector, float]] = {
    "Parotid_L": ((22.0, -4.0, 10.0), 9.0),
    "Parotid_R": ((-24.0, 2.0, -6.0), 7.0),
    "SpinalCord": ((1.0, 20.0, 2.0), 5.0),
}
NOT_FOUND = "Larynx"
PROVENANCE = Provenance.of_one("hn7", "1.0", "a" * 64, "b" * 64)
BALL_HU = {"Parotid_L": 300, "Parotid_R": 500, "SpinalCord": 700}
TISSUE_HU = 40


def grid(orientation: str = "HFS", shape: tuple[int, int, int] = (24, 40, 48)) -> Grid:
    """Return an axial grid around the patient's origin, 2.5 x 2.0 x 1.75 mm, slices from the feet to the head."""
    row, column = (np.array(v, dtype=float) for v in ORIENTATIONS[orientation])
    dz, dy, dx = 2.5, 2.0, 1.75
    corner = -row * dx * (shape[2] - 1) / 2 - column * dy * (shape[1] - 1) / 2
    origins = np.tile(corner, (shape[0], 1))
    origins[:, 2] = (np.arange(shape[0]) - (shape[0] - 1) / 2) * dz
    return Grid(shape, (dy, dx), origins, *ORIENTATIONS[orientation])


def centres_mm(on: Grid) -> NDArray[np.float64]:
    """Patient coordinates (z, y, x, 3) of every voxel centre."""
    return on.to_patient(np.indices(on.shape).reshape(3, -1).T.astype(float)).reshape(*on.shape, 3)


def phantom(on: Grid | None = None) -> Volume:
    """Make an oval trunk of soft tissue in air, with the balls."""
    on = on or grid()
    points = centres_mm(on)
    trunk = (points[..., 0] / 38) ** 2 + (points[..., 1] / 32) ** 2 <= 1
    hu = np.where(trunk, TISSUE_HU, AIR_HU + 24)
    for name, (centre, radius) in BALLS.items():
        hu[np.linalg.norm(points - centre, axis=-1) <= radius] = BALL_HU[name]
    return Volume(on, hu.astype(np.int16))


def write_series(
    folder: Path, volume: Volume | None = None, change: Callable[[pydicom.Dataset], None] | None = None
) -> Path:
    """Write a series as CT_0000.dcm and so on, each dataset changed as wished; returns the folder."""
    write_ct_series(volume or phantom(), folder, SeriesIdentity(f"ID-{folder.name}", f"{folder.name}^Test"))
    for path in sorted(folder.iterdir()) if change else ():
        rewrite(path, change)
    return folder


def rewrite(path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    """Change one file; its file meta information follows the dataset."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def setting(**values: object) -> Callable[[pydicom.Dataset], None]:
    """Return a change that sets attributes."""

    def change(ds: pydicom.Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def read_series(folder: Path) -> Series:
    """Read the only series of a folder through the gate."""
    (instances,) = find_series(folder).values()
    return gate(instances)


def traced(on: Grid) -> tuple[StructureSet, dict[str, MaskInBox]]:
    """Contour each ball as a probability that falls from 1 to 0 over 4 mm and is 0.5 at the radius; one is empty."""
    whole = (slice(0, on.shape[0]), slice(0, on.shape[1]), slice(0, on.shape[2]))
    nothing = MaskInBox((slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), dtype=bool))
    points = centres_mm(on)
    rois, masks = [ROI(NOT_FOUND, (), 0.0)], {NOT_FOUND: nothing}
    for name, (centre, radius) in BALLS.items():
        depth_mm = radius - np.linalg.norm(points - centre, axis=-1)
        probability = np.clip(0.5 + depth_mm / 4, 0, 1).astype(np.float32)
        masks[name] = MaskInBox(whole, probability >= 0.5)
        rois.append(ROI(name, trace(probability, whole, on), 0.0))
    return StructureSet(tuple(rois)), masks


def structure_set(series: Series, provenance: Provenance = PROVENANCE) -> pydicom.Dataset:
    """Return the balls of a phantom's series as a structure set."""
    return structure_set_dataset(traced(series.grid)[0], series, provenance, catalogue())


def encoded(path: Path) -> bytes:
    """Return the file's dataset without preamble and file meta information, which say their own length."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]
