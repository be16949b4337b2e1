"""What an archive holds: items to read, each a CT with its structures under the names that a clinic gave them.

A folder may mix DICOM (CT + RTSTRUCT), PDDCA (NRRD), the open-kbp repository's CSV files and cases as .npz, in any
nesting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.volume import Volume


class Kind(Enum):
    """How an item is stored."""

    DICOM = "dicom"
    PDDCA = "pddca"
    OPENKBP_CSV = "open-kbp"
    CASE = "npz"


@dataclass(frozen=True, slots=True)
class Item:
    """One CT with its structures, found and not read yet.

    Attributes
    ----------
    source
        What the person calls the archive.
    name
        Of the folder or file, unique in its source; for DICOM the series' UID, which is not kept.
    kind
        How to read it.
    images, structures
        Files of the CT, and of its structures.
    patient
        PatientID, or the folder's name where there is none.
    split
        train, validation or test where a folder above it is named so, else empty.
    spellings
        Names of its structures.
    """

    source: str
    name: str
    kind: Kind
    images: tuple[Path, ...]
    structures: tuple[Path, ...]
    patient: str
    split: str = ""
    spellings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Something in an archive that is no case, and why."""

    source: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class RawCase:
    """A CT as it was read, before anyone said what its structures are.

    Attributes
    ----------
    masks
        Spelling -> bool (z, y, x); empty where the structure is drawn only outside of the scanned range, or where
        somebody looked and found nothing.
    remarks
        Spelling -> what is odd about it; one that stands here and not in ``masks`` cannot be used.
    """

    volume: Volume
    masks: Mapping[str, NDArray[np.bool_]]
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)


SPLITS = {
    "train": "train",
    "training": "train",
    "train-pats": "train",
    "validation": "validation",
    "val": "validation",
    "validation-pats": "validation",
    "test": "test",
    "test-pats": "test",
}


def split_of(path: Path, root: Path) -> str:
    """Return the split that a folder between an item and its source's root is named after; empty: none."""
    inside = path.relative_to(root).parts[:-1] if path != root else ()
    named = [SPLITS[part.lower()] for part in (root.name, *inside) if part.lower() in SPLITS]
    return named[-1] if named else ""
