"""Which job a structure set that came back is of: what both say of their CT decides, never an order or a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contourd.errors import ReviewUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.reviews.reading import ReviewContents


@dataclass(frozen=True, slots=True)
class DraftContents:
    """A structure set that contourd made.

    Attributes
    ----------
    ended
        Its job was superseded or cancelled: a newer one is there, or none is wanted.
    delivered
        A destination took it.
    uids
        Of all structure sets of the job that are there: each way of writing it makes another.
    """

    job_id: int
    contents: ReviewContents
    ended: bool
    delivered: bool
    uids: frozenset[str]


def choose(review: ReviewContents, drafts: Sequence[DraftContents]) -> DraftContents:
    """Return the draft that a structure set was made of.

    A structure set that names its predecessor, or bears its very UID, is of that one. Else it is of the draft whose
    images its contours name, whose series it names, or, where it names neither, in whose frame of reference it is
    drawn; of several those count that were delivered and not superseded. Patient, study and frame of reference must be
    the draft's in any case.

    Raises
    ------
    ReviewUnusable
        It is of none, of another patient, study or frame of reference, or may be of several.
    """
    fitting = [draft for draft in drafts if _same_ct(review, draft.contents)]
    if not fitting:
        raise ReviewUnusable(HoldReason.REVIEW_OF_NO_SERIES)
    wrong = {draft.job_id: _contradiction(review, draft) for draft in fitting}
    own = [draft for draft in fitting if wrong[draft.job_id] is None]
    if not own:
        raise next(error for error in wrong.values() if error is not None)
    named = {review.uid, *review.predecessors}
    for kept in (
        [draft for draft in own if draft.uids & named],
        own,
        [draft for draft in own if not draft.ended],
        [draft for draft in own if not draft.ended and draft.delivered],
    ):
        if len(kept) == 1:
            return kept[0]
    raise ReviewUnusable(HoldReason.REVIEW_FITS_SEVERAL, jobs=sorted(draft.job_id for draft in own))


def _same_ct(review: ReviewContents, draft: ReviewContents) -> bool:
    if set(review.images) & set(draft.images) or set(review.series) & set(draft.series):
        return True
    return not review.images and not review.series and bool(set(review.frames) & set(draft.frames))


def _contradiction(review: ReviewContents, draft: DraftContents) -> ReviewUnusable | None:
    """Return why a structure set is not of a draft's CT, though it names it; None where it is."""
    job = draft.job_id
    if review.patient != draft.contents.patient:
        return ReviewUnusable(HoldReason.REVIEW_OTHER_PATIENT, job=job)
    if not set(review.studies) & set(draft.contents.studies):
        return ReviewUnusable(HoldReason.REVIEW_OTHER_STUDY, job=job)
    if not set(review.frames) & set(draft.contents.frames):
        return ReviewUnusable(HoldReason.REVIEW_OTHER_FRAME, job=job)
    return None
