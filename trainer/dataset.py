"""Case -> Sample through the model's own transforms, kept compact in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.contours import MaskInBox
from contourd.imaging.resample import resample
from contourd.model.plausibility import Organ, OrganSpread, distribution_of, organ
from contourd.model.transforms import Preprocess, grid_axes_mm
from trainer.case import Annotation, Case, find_cases, read_case

FULL = 255


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One case on the network's lattice.

    Attributes
    ----------
    image
        float16 (d, h, w), -1 to 1.
    organs
        uint8 (organs, d, h, w): the part of each voxel that the organ fills, 0 to 255. Zero for UNKNOWN and ABSENT.
    annotated
        bool (organs,): PRESENT or ABSENT.
    """

    identifier: str
    image: NDArray[np.float16]
    organs: NDArray[np.uint8]
    annotated: NDArray[np.bool_]


def make_sample(case: Case, structures: Sequence[str], preprocess: Preprocess) -> Sample:
    """Bring a case onto the network's lattice.

    Raises
    ------
    SeriesUnusable
        No patient is in the volume.
    """
    prepared = preprocess.prepare(case.volume)
    source = grid_axes_mm(prepared.canonical)
    organs = np.zeros((len(structures), *prepared.image.shape), dtype=np.uint8)
    for i, name in enumerate(structures):
        if case.annotation(name) is Annotation.PRESENT:
            part = resample(prepared.turn.apply(case.masks[name]), source, prepared.axes_mm)
            organs[i] = np.rint(part * FULL)
    annotated = np.array([case.annotation(name) is not Annotation.UNKNOWN for name in structures])
    return Sample(case.identifier, prepared.image.astype(np.float16), organs, annotated)


def measure_organs(case: Case) -> list[Organ]:
    """Measure volume, centroid and cut of each PRESENT organ, on the CT's own grid."""
    grid = case.volume.grid
    whole = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    measured = (organ(name, MaskInBox(whole, mask), grid) for name, mask in case.masks.items())
    return [o for o in measured if o is not None]


def measure_split(folder: Path) -> dict[str, OrganSpread]:
    """Measure the organs of all cases of a split, for the model's plausibility check.

    Raises
    ------
    DatasetError
        A case cannot be read.
    """
    return distribution_of([measure_organs(read_case(path)) for path in find_cases(folder)])
