"""The open-kbp repository's layout (Babier et al., Med Phys 48, 2021): a folder per patient, sparse arrays as CSV."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contourd.errors import DatasetError
from trainer.bounds import read_text
from trainer.case import OPENKBP_OFFSET_HU, upright, upright_grid
from trainer.curation.archive import Item, Kind, RawCase

CT_FILE, SPACING_FILE = "ct.csv", "voxel_dimensions.csv"
NOT_STRUCTURES = frozenset({"ct", "voxel_dimensions", "dose", "possible_dose_mask"})
SHAPE = (128, 128, 128)
LARGEST_STORED = 4095
HEADER = ",data"


def find_patient(folder: Path, source: str, splits: tuple[str, ...]) -> Item:
    """Describe a patient's folder, which holds a ct.csv."""
    structures = tuple(path for path in sorted(folder.glob("*.csv")) if path.stem not in NOT_STRUCTURES)
    spellings = tuple(path.stem for path in structures)
    return Item(source, folder.name, Kind.OPENKBP_CSV, (folder / CT_FILE,), structures, folder.name, splits, spellings)


def read_patient(item: Item) -> RawCase:
    """Read a patient.

    Raises
    ------
    DatasetError
        A file cannot be read, or an index lies outside of the array.
    """
    folder = item.images[0].parent
    try:
        spacing = np.loadtxt(StringIO(read_text(folder / SPACING_FILE)), dtype=np.float64, ndmin=1)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / SPACING_FILE}: {error}") from error
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise DatasetError(f"{folder / SPACING_FILE}: three spacings are needed, found {spacing.tolist()}")
    index, values = _sparse(item.images[0])
    ct = np.zeros(SHAPE, dtype=np.int16)
    ct.flat[index] = np.clip(np.rint(values), 0, LARGEST_STORED)
    masks = {}
    for path in item.structures:
        flat = np.zeros(SHAPE, dtype=bool)
        index, values = _sparse(path)
        flat.flat[index] = values != 0
        masks[path.stem] = upright(flat)
    hu = upright(ct - OPENKBP_OFFSET_HU)
    return RawCase(upright_grid(hu, (float(spacing[0]), float(spacing[1]), float(spacing[2]))), masks)


def _sparse(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read flat indices in C order, and their values where there are any."""
    try:
        header, *lines = read_text(path).splitlines() or [""]
        if header != HEADER:
            raise ValueError(f"its first line is not {HEADER!r}")
        pairs = [line.split(",", 1) for line in lines if line]
        index = np.array([pair[0] for pair in pairs], dtype=np.int64)
        values = np.array([pair[1] or "1" for pair in pairs], dtype=np.float64)
    except (OSError, ValueError, IndexError, OverflowError) as error:
        raise DatasetError(f"{path}: {error}") from error
    if len(index) and (index.min() < 0 or index.max() >= np.prod(SHAPE) or not np.isfinite(values).all()):
        raise DatasetError(f"{path}: an index lies outside of {SHAPE}, or a value is no number")
    return index, values
