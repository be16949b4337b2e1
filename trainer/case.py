"""A training case, and how it is kept on disk: one .npz per patient.

Two layouts are read: the one that ``write_case`` writes, and OpenKBP's (Babier et al., Med Phys 48, 2021): 128 x 128 x
128 head-and-neck planning CTs with up to seven organs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from contourd.errors import DatasetError
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.spellings import interpret
from contourd.system.regular_files import open_regular
from trainer.atomic import replacing
from trainer.bounds import check_arrays

OPENKBP_BITS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
OPENKBP_OFFSET_HU = 1024
MOST_ORGANS = 64


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
    source
        Where the case came from, as a person calls it; empty where nobody said.
    """

    identifier: str
    volume: Volume
    masks: Mapping[str, NDArray[np.bool_]]
    annotations: Mapping[str, Annotation]
    source: str = field(default="")

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
    """Read one case in either layout.

    Raises
    ------
    DatasetError
        The file cannot be read, or its arrays do not fit each other.
    """
    try:
        with open_regular(path) as file:
            check_arrays(file)
            with np.load(file, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
        return _from_openkbp(path, content) if "ct" in content else _from_curated(path, content)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> DatasetError:
    """Name a case that cannot be read, why, and what to do about it."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DatasetError(f"{path}: {reason}; curate its source anew, or take it out of the data set")


def write_case(case: Case, path: Path) -> None:
    """Write a case through a temporary file: hu, the grid, one bit per organ, and what is known of each.

    Raises
    ------
    DatasetError
        It has more organs than a bit field holds.
    """
    names = sorted(case.masks)
    if len(names) > MOST_ORGANS:
        raise DatasetError(f"{case.identifier}: {len(names)} organs, at most {MOST_ORGANS} can be kept")
    size = next(s for s in (8, 16, 32, 64) if len(names) <= s)
    bits = np.zeros(case.volume.hu.shape, dtype=f"uint{size}")
    for bit, name in enumerate(names):
        bits |= case.masks[name].astype(bits.dtype) << bits.dtype.type(bit)
    grid = case.volume.grid
    said = {name: annotation.value for name, annotation in sorted(case.annotations.items())}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            hu=case.volume.hu.astype(np.int16),
            bits=bits,
            names=np.array(names, dtype=np.str_),
            annotations=np.array(json.dumps(said)),
            source=np.array(case.source),
            pixel_spacing_mm=np.array(grid.pixel_spacing_mm),
            slice_origins_mm=grid.slice_origins_mm,
            directions=np.array([grid.row_direction, grid.column_direction]),
        )


def _from_curated(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> Case:
    hu, bits = arrays["hu"].astype(np.int16), arrays["bits"].astype(np.uint64)
    dy, dx = (float(s) for s in arrays["pixel_spacing_mm"])
    row, column = (tuple(float(v) for v in direction) for direction in arrays["directions"])
    origins = arrays["slice_origins_mm"].astype(np.float64)
    if hu.ndim != 3 or bits.shape != hu.shape or origins.shape != (len(hu), 3):
        raise ValueError(f"arrays {hu.shape}, {bits.shape} and {origins.shape} do not fit each other")
    slices, rows, columns = hu.shape
    grid = Grid((slices, rows, columns), (dy, dx), origins, (row[0], row[1], row[2]), (column[0], column[1], column[2]))
    names = [str(name) for name in arrays["names"]]
    masks = {name: ((bits >> np.uint64(bit)) & np.uint64(1)).astype(bool) for bit, name in enumerate(names)}
    said = {name: Annotation(value) for name, value in json.loads(str(arrays["annotations"])).items()}
    if set(masks) != {name for name, annotation in said.items() if annotation is Annotation.PRESENT}:
        raise ValueError(f"masks of {sorted(masks)} do not fit what is said of the organs")
    return Case(path.stem, Volume(grid, hu), masks, said, str(arrays["source"]))


def _from_openkbp(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> Case:
    """Read ct int16 (back, left, down), HU + 1024, 0 outside of the patient; lab bits; present; spacing."""
    ct, bits = arrays["ct"], arrays["lab"].astype(np.uint8)
    present = {str(name) for name in arrays["present"]}
    across, along, up = (float(s) for s in arrays["spacing"])
    unknown = present - set(OPENKBP_BITS)
    if ct.shape != bits.shape or unknown:
        raise ValueError(f"arrays {ct.shape} and {bits.shape}, unknown organs {sorted(unknown)}")
    masks = {name: (bits >> bit) & 1 for bit, name in enumerate(OPENKBP_BITS) if name in present}
    return openkbp_case(path.stem, ct.astype(np.int16), masks, (across, along, up))


def openkbp_case(
    identifier: str,
    ct: NDArray[np.int16],
    masks: Mapping[str, NDArray[np.generic]],
    spacing_mm: tuple[float, float, float],
    source: str = "",
) -> Case:
    """Build a case from arrays in OpenKBP's axes (back, left, down).

    Parameters
    ----------
    ct
        HU + 1024, 0 outside of the patient.
    masks
        OpenKBP's name -> nonzero inside; an organ that somebody looked for and did not find is empty.
    spacing_mm
        In the order of ct's axes.
    """
    hu = upright(ct - OPENKBP_OFFSET_HU)
    inside, annotations = {}, {}
    for spelling, flat in masks.items():
        name, mask = interpret(spelling).organ, upright(flat.astype(bool))
        if name is None:
            continue
        annotations[name] = Annotation.PRESENT if mask.any() else Annotation.ABSENT
        if mask.any():
            inside[name] = mask
    return Case(identifier, upright_grid(hu, spacing_mm), inside, annotations, source)


def upright_grid(hu: NDArray[np.int16], spacing_mm: tuple[float, float, float]) -> Volume:
    """Put a volume (z, y, x) out of OpenKBP's axes onto a grid whose middle column and row are at zero.

    Parameters
    ----------
    spacing_mm
        In the order of OpenKBP's axes (back, left, down).
    """
    back, left, up = spacing_mm
    slices, rows, columns = hu.shape
    origin = (-left * (columns - 1) / 2, -back * (rows - 1) / 2, 0.0)
    return Volume(Grid.regular((slices, rows, columns), (up, back, left), origin), hu)


Voxel = TypeVar("Voxel", bound=np.generic)


def upright(array: NDArray[Voxel]) -> NDArray[Voxel]:
    """(back, left, down) -> (up, back, left): the slice nearest to the feet first."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)[::-1])
