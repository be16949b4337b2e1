"""Why a structure set that came back is not compared: entries of the catalogue (``contourd.reasons.catalogue``)."""

from __future__ import annotations

from contourd.reasons import sentences
from contourd.reasons.codes import HoldClass, HoldReason, ReasonEntry, entries

ENTRIES: dict[HoldReason, ReasonEntry] = {}
ENTRIES |= entries(
    HoldClass.REVIEW,
    "no job is known that it could be of; it is kept, and looked at again when a series of its patient is contoured",
    "Nothing, if its CT is still to come. If it was contoured elsewhere, do not send it here.",
    {
        HoldReason.REVIEW_OF_NO_SERIES: "it was not drawn on a CT that contourd received",
        HoldReason.REVIEW_BEFORE_ITS_JOB: "its CT was received, and is not contoured yet",
    },
)
ENTRIES |= entries(
    HoldClass.REVIEW,
    "it names a CT that was contoured, and is of another patient, study or frame of reference than that CT",
    "Look at both in the planning system: a structure set may have been copied to the wrong patient.",
    {
        HoldReason.REVIEW_OTHER_PATIENT: "its Patient ID is not that of the CT of job {job}",
        HoldReason.REVIEW_OTHER_STUDY: "it is of another study than the CT of job {job}, and refers to no other",
        HoldReason.REVIEW_OTHER_FRAME: "it is drawn in another frame of reference than the CT of job {job}",
    },
)
ENTRIES |= entries(
    HoldClass.REVIEW,
    "it may be of several jobs, and nothing in it says of which",
    "Nothing: it is kept, and not compared.",
    {HoldReason.REVIEW_FITS_SEVERAL: sentences.review_fits_several},
)
ENTRIES |= entries(
    HoldClass.REVIEW,
    "what it is to be compared with is not there any more",
    "Nothing: it cannot be compared. Longer retention (retention.output_days) keeps what later ones need.",
    {
        HoldReason.REVIEW_DRAFT_GONE: "the structure set of job {job} was removed before this one came back",
        HoldReason.REVIEW_WITHOUT_GRID: "the CT of job {job} was removed, and the version that contoured it did not "
        "keep its grid",
    },
)
ENTRIES |= entries(
    HoldClass.REVIEW,
    "it is damaged, too large to be compared, or holds no organ",
    "Export it again, with organs, or do not send what is none of contourd's.",
    {
        HoldReason.REVIEW_UNREADABLE: "it cannot be read ({said})",
        HoldReason.REVIEW_TOO_LARGE: "it has {found} {what}; at most {most} are compared",
        HoldReason.REVIEW_NOT_FINISHED: "it could not be read or compared within {seconds:g} s and {gib:g} GiB",
        HoldReason.REVIEW_WITHOUT_ORGANS: "none of its ROIs has contours and the name of an organ",
    },
)
