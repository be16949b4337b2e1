"""Which CT series a structure set was drawn on (DICOM PS3.3 C.8.8.5): what it says itself decides, never an order.

The images that its contours name come first, then the series that it names, then the frame of reference. A structure
set that names one of these belongs to no other CT, and its patient and study must be the CT's: a frame of reference is
shared where a de-identification made all patients' the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contourd.dicom.reading.series import Instance
from contourd.dicom.rtstruct.references import StructureSetFile
from contourd.errors import DatasetError
from trainer.curation.archive import Stage

ABSENT = "the CT that this structure set belongs to is absent"


class Unmatched(DatasetError):
    """A structure set cannot be used with any of the CT series that are here.

    Attributes
    ----------
    stage
        How much that explains.
    """

    def __init__(self, reason: str, stage: Stage) -> None:
        super().__init__(reason)
        self.stage = stage


def newest(drawn: Sequence[StructureSetFile]) -> StructureSetFile:
    """Return the newest of the structure sets of one CT, one at least; of copies the first by its path.

    Raises
    ------
    Unmatched
        Nothing says which of several is the newest.
    """
    ordered = sorted(drawn, key=lambda one: str(one.path))
    last = max(ordered, key=lambda one: one.drawn)
    others = [one for one in ordered if not one.is_copy_of(last)]
    if any(not one.drawn or one.drawn == last.drawn for one in others):
        count = len(others) + 1
        raise Unmatched(
            f"it has {count} structure sets, and their dates do not say which is the newest; leave one of them",
            Stage.MISMATCHED,
        )
    return last


def series_of(one: StructureSetFile, series: Mapping[str, Sequence[Instance]]) -> str:
    """Return the UID of the CT series that a structure set was drawn on.

    Parameters
    ----------
    series
        Series Instance UID -> its images, one at least.

    Raises
    ------
    Unmatched
        It is not here, several may be meant, or it is another patient's or study's.
    """
    if one.images:
        candidates, by = _by_images(one, series), "its contours name images of each of them"
    elif one.series_uids:
        candidates = [uid for uid in one.series_uids if uid in series]
        by = "it names them all, and its contours name no images"
    else:
        candidates = [uid for uid, images in series.items() if images[0].frame_of_reference_uid in one.frame_uids]
        by = "they share its frame of reference, and it names neither series nor images"
    if not candidates:
        raise Unmatched(ABSENT, Stage.ABSENT)
    reasons = {uid: _another(one, series[uid]) for uid in candidates}
    own = [uid for uid in candidates if not reasons[uid]]
    if not own:
        raise Unmatched(reasons[candidates[0]], Stage.MISMATCHED)
    if len(own) > 1:
        within = [uid for uid in own if series[uid][0].frame_of_reference_uid in one.frame_uids]
        own = within if len(within) == 1 else own
    if len(own) > 1:
        raise Unmatched(f"it may belong to any of {len(own)} CT series that are here: {by}", Stage.MISMATCHED)
    return own[0]


def _by_images(one: StructureSetFile, series: Mapping[str, Sequence[Instance]]) -> list[str]:
    """Return the series of which most contours name an image; several where they are even."""
    named = {uid: sum(one.images.get(i.sop_instance_uid, 0) for i in images) for uid, images in series.items()}
    most = max(named.values(), default=0)
    return [uid for uid, count in named.items() if count == most > 0]


def _another(one: StructureSetFile, images: Sequence[Instance]) -> str:
    """Return why a structure set is not of the patient or study of a CT, empty where it is."""
    if {image.patient_id.strip() for image in images} != {one.patient}:
        return "it is of another patient than its CT: their Patient IDs differ"
    if {image.study_instance_uid for image in images} - set(one.studies):
        return "it is of another study than its CT: their Study Instance UIDs differ, and it refers to no other"
    return ""
