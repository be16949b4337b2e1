"""What became of each organ: a structure set that came back beside the one that was delivered, on the CT's own grid.

By the metrics of the evaluation (``contourd.imaging.metrics``), with what came back as the truth. An ROI is laid on the
grid by the reader that training sets are made with; one that this cannot do for sure is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.series_description import describe, without_names
from contourd.dicom.rtstruct.reader import ReadROI, rasterise, read_structure_set
from contourd.dicom.rtstruct.roi_masks import roi_mask
from contourd.errors import DatasetError, ReviewUnusable
from contourd.imaging.grid import FloatArray, Grid
from contourd.imaging.metrics import agreement
from contourd.model.spellings import NO_ORGAN, Vocabulary, interpret
from contourd.reasons.catalogue import HoldReason
from contourd.reviews.reading import read_bounded
from contourd.store.states import OrganFate

# A point that was written anew, with fewer decimals, may move by half of its last one.
SAME_POINT_MM = 0.01
# With less in common nobody calls it an edit.
REDRAWN_BELOW_DICE = 0.5
LONGEST_REMARK = 300
LONGEST_ROI = 64
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OrganComparison:
    """What became of one ROI; numbers are None where there is nothing to measure, or no end to it.

    Attributes
    ----------
    organ
        Empty where its name is not sure.
    roi
        As it is called there; empty where it is not there, or where its name tells who the patient is.
    """

    organ: str
    roi: str
    fate: OrganFate
    dice: float | None = None
    surface_dice: float | None = None
    hausdorff_95_mm: float | None = None
    added_path_mm: float | None = None
    draft_cc: float | None = None
    reviewed_cc: float | None = None
    remark: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """The structure set that was delivered.

    Attributes
    ----------
    names
        Its ROI names -> organ, where the two differ.
    grid, frame
        Of the CT: where its voxels lie, and its frame of reference.
    """

    path: Path
    names: Mapping[str, str]
    grid: Grid
    frame: str


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """What a planning system calls the organs.

    Attributes
    ----------
    given
        Names that destinations are given -> organ, whatever the case.
    vocabulary
        Of the catalogue, with the site's own organs.
    """

    given: Mapping[str, str]
    vocabulary: Vocabulary

    def organ_of(self, roi: str) -> str | None:
        """Return the organ that an ROI surely is; empty where that is not sure, None where it is no organ."""
        known = self.given.get(roi.casefold())
        if known is not None:
            return known
        reading = interpret(roi, self.vocabulary)
        return None if reading.taken_for == NO_ORGAN else (reading.organ or "")


def compare(reviewed: Path, draft: Draft, names: Names) -> list[OrganComparison]:
    """Compare organ by organ.

    Raises
    ------
    ReviewUnusable
        What came back cannot be read, is too large, or holds no organ.
    DatasetError
        The draft cannot be read.
    """
    dataset = read_bounded(reviewed)
    try:
        rois = read_structure_set(dataset)
    except (*UNREADABLE, DatasetError) as error:
        raise ReviewUnusable(HoldReason.REVIEW_UNREADABLE, said=type(error).__name__) from error
    delivered = {
        draft.names.get(roi.name, roi.name): roi for roi in read_structure_set(read_bounded(draft.path)) if roi.contours
    }
    of_organ, unsure = _sorted(rois, names)
    if not any(roi.contours for roi in of_organ.values()):
        raise ReviewUnusable(HoldReason.REVIEW_WITHOUT_ORGANS)
    found = [
        _compared(organ, delivered.get(organ), of_organ.get(organ), draft)
        for organ in dict.fromkeys((*delivered, *of_organ))
    ]
    words = describe(dataset).words
    return [without_patient(one, words) for one in (*filter(None, found), *unsure)]


def _sorted(rois: Sequence[ReadROI], names: Names) -> tuple[dict[str, ReadROI], list[OrganComparison]]:
    """Return the ROI of each organ, and what is not sure; what is no organ is left out."""
    called: dict[str, list[ReadROI]] = {}
    unsure: list[OrganComparison] = []
    for roi in rois:
        organ = names.organ_of(roi.name) if roi.name else ""
        if organ:
            called.setdefault(organ, []).append(roi)
        elif organ == "" and (roi.contours or roi.unusable):
            unsure.append(OrganComparison("", roi.name, OrganFate.UNSURE, remark=roi.unusable))
    of_organ: dict[str, ReadROI] = {}
    for organ, several in called.items():
        drawn = [roi for roi in several if roi.contours or roi.unusable] or several[:1]
        if len(drawn) == 1:
            of_organ[organ] = drawn[0]
        else:
            twice = f"{len(drawn)} ROIs may be {organ}"
            unsure += [OrganComparison("", roi.name, OrganFate.UNSURE, remark=twice) for roi in drawn]
            # It is there, and nobody can say which of them it is: neither deleted nor compared.
            of_organ[organ] = ReadROI(drawn[0].number, drawn[0].name, (), (), unusable=twice)
    return of_organ, unsure


def _compared(organ: str, delivered: ReadROI | None, roi: ReadROI | None, draft: Draft) -> OrganComparison | None:
    """Say what became of an organ; None where nothing of it was drawn on either side."""
    before = rasterise(delivered.contours, draft.grid) if delivered is not None else None
    draft_cc = _volume_cc(before, draft.grid) if before is not None else None
    if roi is None or not (roi.contours or roi.unusable):
        return OrganComparison(organ, "", OrganFate.DELETED, draft_cc=draft_cc) if before is not None else None
    if delivered is not None and not roi.unusable and same_points(delivered.contours, roi.contours):
        return OrganComparison(
            organ, roi.name, OrganFate.UNTOUCHED, 1.0, 1.0, 0.0, 0.0, draft_cc=draft_cc, reviewed_cc=draft_cc
        )
    after, remarks = roi_mask(roi, draft.grid, draft.frame)
    if after is None or not after.any():
        return OrganComparison(organ, roi.name, OrganFate.UNUSABLE, draft_cc=draft_cc, remark="; ".join(remarks))
    reviewed_cc, remark = _volume_cc(after, draft.grid), "; ".join(remarks)
    if before is None or not before.any():
        return OrganComparison(organ, roi.name, OrganFate.ADDED, reviewed_cc=reviewed_cc, remark=remark)
    measured = agreement(after, before, draft.grid)
    return OrganComparison(
        organ,
        roi.name,
        OrganFate.REDRAWN if measured.dice < REDRAWN_BELOW_DICE else OrganFate.TOUCHED,
        _finite(measured.dice),
        _finite(measured.surface_dice),
        _finite(measured.hausdorff_95_mm),
        _finite(measured.added_path_mm),
        draft_cc,
        reviewed_cc,
        remark,
    )


def same_points(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> bool:
    """Return whether contours, each (n, 3) in mm, are the same points, in whatever order they are written.

    Each point has one of the other side within SAME_POINT_MM along each axis; a closing point counts for nothing.
    """
    loops, others = [_opened(p) for p in one], [_opened(p) for p in other]
    if not loops or sorted(map(len, loops)) != sorted(map(len, others)):
        return False
    a, b = np.concatenate(loops), np.concatenate(others)
    limit = SAME_POINT_MM + 1e-6
    return all(bool((KDTree(q).query(p, p=math.inf)[0] <= limit).all()) for p, q in ((a, b), (b, a)))


def _opened(loop: FloatArray) -> FloatArray:
    """Leave a closing point out."""
    closed = len(loop) > 1 and bool(np.all(np.abs(loop[0] - loop[-1]) <= SAME_POINT_MM))
    return loop[:-1] if closed else loop


def _volume_cc(mask: Mask, grid: Grid) -> float:
    return float(grid.volume_mm3(mask, 0)) / 1000


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def without_patient(one: OrganComparison, words: Iterable[str]) -> OrganComparison:
    """Leave out what may hold a part of the patient's name or ID, and bound what is kept of a text."""
    plain = one.plain() | {
        "roi": without_names(one.roi, words)[:LONGEST_ROI],
        "remark": one.remark[:LONGEST_REMARK] if without_names(one.remark, words) else "",
    }
    return OrganComparison(**plain)
