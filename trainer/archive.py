"""Find and read archives -> Case.

OpenKBP (Babier et al., Med Phys 48, 2021): 128 x 128 x 128 head-and-neck planning CTs with up to seven organs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from contourd.errors import DatasetError
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.structures import match

OPENKBP_BITS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
OPENKBP_OFFSET_HU = 1024


class Annotation(Enum):
    """What is known of an organ in a case."""

    PRESENT = "present"
    ABSENT = "absent"  # annotated, and outside of the field of view
    UNKNOWN = "unknown"  # nobody looked: neither organ nor background


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One CT with what is known of its organs.

    Attributes
    ----------
    masks
        TG-263 name -> bool (z, y, x) on the volume's grid, of the PRESENT organs.
    annotations
        TG-263 name -> Annotation; an organ that is not named is UNKNOWN.
    """

    identifier: str
    volume: Volume
    masks: Mapping[str, NDArray[np.bool_]]
    annotations: Mapping[str, Annotation]

    def annotation(self, name: str) -> Annotation:
        """Return what is known of one organ."""
        return self.annotations.get(name, Annotation.UNKNOWN)


def find_cases(folder: Path) -> list[Path]:
    """List the cases of one split in a fixed order.

    Raises
    ------
    DatasetError
        The folder holds none.
    """
    paths = sorted(folder.glob("*.npz"), key=lambda p: (len(p.stem), p.stem))
    if not paths:
        raise DatasetError(f"{folder}: no case (*.npz) found")
    return paths


def read_case(path: Path) -> Case:
    """Read one case: ct int16 (back, left, down), HU + 1024, 0 outside of the patient; lab bits; present; spacing.

    Raises
    ------
    DatasetError
        The file cannot be read, or its arrays do not fit each other.
    """
    try:
        with np.load(path) as arrays:
            ct, bits = arrays["ct"], arrays["lab"]
            present = {str(name) for name in arrays["present"]}
            across, along, up = (float(s) for s in arrays["spacing"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DatasetError(f"{path}: {error}") from error
    unknown = present - set(OPENKBP_BITS)
    if ct.shape != bits.shape or unknown:
        raise DatasetError(f"{path}: arrays {ct.shape} and {bits.shape}, unknown organs {sorted(unknown)}")
    hu = _upright(ct.astype(np.int16) - OPENKBP_OFFSET_HU)
    rows, columns = hu.shape[1:]
    origin = (-along * (columns - 1) / 2, -across * (rows - 1) / 2, 0.0)
    masks, annotations = {}, {}
    for bit, spelling in enumerate(OPENKBP_BITS):
        name = match(spelling)
        if name is None or spelling not in present:
            continue
        mask = _upright((bits >> bit) & 1).astype(bool)
        annotations[name] = Annotation.PRESENT if mask.any() else Annotation.ABSENT
        if mask.any():
            masks[name] = mask
    grid = Grid.regular(hu.shape, (up, across, along), origin)
    return Case(path.stem, Volume(grid, hu.astype(np.int16)), masks, annotations)


def _upright(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """(back, left, down) -> (up, back, left): the slice nearest to the feet first."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)[::-1])
