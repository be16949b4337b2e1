"""PDDCA (MICCAI 2015 head-and-neck challenge): one folder per patient with img.nrrd and structures/*.nrrd."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contourd.errors import DatasetError
from contourd.imaging.grid import FloatArray, Grid
from contourd.imaging.volume import Volume
from trainer.bounds import check_nrrd
from trainer.curation.archive import Item, Kind, RawCase

IMAGE_FILE, STRUCTURES_FOLDER = "img.nrrd", "structures"
# Sign of each axis of the file's space in LPS.
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
TOLERANCE = 1e-3
LOWEST_HU, HIGHEST_HU = -1024, 3071


def find_patient(folder: Path, source: str, splits: tuple[str, ...]) -> Item:
    """Describe a patient's folder, which holds an img.nrrd."""
    structures = tuple(sorted((folder / STRUCTURES_FOLDER).glob("*.nrrd")))
    spellings = tuple(path.stem for path in structures)
    return Item(source, folder.name, Kind.PDDCA, (folder / IMAGE_FILE,), structures, folder.name, splits, spellings)


def read_patient(item: Item) -> RawCase:
    """Read a patient; structures must lie on the image's grid.

    Raises
    ------
    DatasetError
        pynrrd is not installed, a file cannot be read, or the image is not axial.
    """
    hu, grid = _read(item.images[0])
    masks, remarks = {}, {}
    for path in item.structures:
        try:
            mask, own = _read(path)
        except DatasetError as error:
            remarks[path.stem] = [str(error)]
            continue
        labels = np.unique(mask[mask != 0])
        if not _same(own, grid):
            remarks[path.stem] = [f"{path.name} does not lie on the image's grid"]
        elif len(labels) > 1:
            remarks[path.stem] = [f"{path.name} has {len(labels)} values beside 0, and may hold several organs"]
        else:
            masks[path.stem] = mask.astype(bool)
    clipped = np.clip(hu, LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return RawCase(Volume(grid, clipped), masks, remarks)


def _same(a: Grid, b: Grid) -> bool:
    return a.shape == b.shape and all(
        np.allclose(one, other, atol=0.01)
        for one, other in ((a.slice_origins_mm, b.slice_origins_mm), (a.pixel_spacing_mm, b.pixel_spacing_mm))
    )


def _read(path: Path) -> tuple[NDArray[np.generic], Grid]:
    """Read an array (z, y, x) with axes towards head, back and left, and its grid."""
    try:
        import nrrd
    except ImportError as error:
        raise DatasetError("NRRD files need pynrrd: pip install 'contourd[train]'") from error
    try:
        check_nrrd(path)
        array, header = nrrd.read(str(path))
        directions = np.asarray(header["space directions"], dtype=np.float64)  # a row per axis of the array
        origin = np.asarray(header["space origin"], dtype=np.float64)
        signs = np.array(SPACES[str(header["space"]).lower()], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, zlib.error, nrrd.NRRDError) as error:
        raise DatasetError(f"{path}: no NRRD volume with a known space ({type(error).__name__}: {error})") from error
    if array.ndim != 3 or directions.shape != (3, 3):
        raise DatasetError(f"{path}: three axes are needed, found {array.shape}")
    return _canonical(path, array, directions * signs, origin * signs)


def _canonical(
    path: Path, array: NDArray[np.generic], directions: FloatArray, origin: FloatArray
) -> tuple[NDArray[np.generic], Grid]:
    """Order and flip axes (i, j, k) until they run along x, y, z of the patient."""
    along = np.abs(directions).argmax(axis=1)
    sizes = np.linalg.norm(directions, axis=1)
    if sorted(along) != [0, 1, 2] or not np.allclose(
        np.abs(directions[np.arange(3), along]), sizes, rtol=0, atol=TOLERANCE * sizes.max()
    ):
        raise DatasetError(f"{path}: the axes are oblique; resample it to axial slices first")
    order = np.argsort(along)  # the array's axis along x, y, z
    array, directions, sizes = array.transpose(order), directions[order], sizes[order]
    for axis in range(3):
        if directions[axis, axis] < 0:
            origin = origin + directions[axis] * (array.shape[axis] - 1)
            array = np.flip(array, axis)
    dx, dy, dz = (float(s) for s in sizes)
    turned = np.ascontiguousarray(array.transpose(2, 1, 0))
    slices, rows, columns = turned.shape
    return turned, Grid.regular((slices, rows, columns), (dz, dy, dx), [float(v) for v in origin])
