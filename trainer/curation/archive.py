"""What an archive holds: items to read, each a CT with its structures under the names that a clinic gave them.

A folder may mix DICOM (CT + RTSTRUCT), PDDCA (NRRD), the open-kbp repository's CSV files and cases as .npz, in any
nesting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
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
    splits
        train, validation or test where a folder above its images is named so; copies may lie in several.
    spellings
        Names of its structures.
    """

    source: str
    name: str
    kind: Kind
    images: tuple[Path, ...]
    structures: tuple[Path, ...]
    patient: str
    splits: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()


class Stage(IntEnum):
    """How far something came before it was left out; what came farther explains more of an empty data set."""

    ASIDE = 0  # another is taken in its place
    ALONE = 1  # a CT without a structure set
    ABSENT = 2  # a structure set without its CT
    UNREADABLE = 3
    MISMATCHED = 4  # a structure set of which nobody can say that it is this CT's
    UNUSABLE = 5  # a case that could not be made
    EXCLUDED = 6  # a case that was made, and is not one for training


@dataclass(frozen=True, slots=True)
class SkippedItem:
    """Something in an archive that is no case, and why."""

    source: str
    name: str
    reason: str
    stage: Stage = Stage.UNREADABLE


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


def splits_of(paths: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Return the splits that folders between an item's files and its source's root are named after."""
    found = set()
    for folder in {path.parent for path in paths}:
        inside = folder.relative_to(root).parts
        named = [SPLITS[part.lower()] for part in (root.name, *inside) if part.lower() in SPLITS]
        found.update(named[-1:])
    return tuple(sorted(found))
