"""How an image is refused: the status of each error, and the response that gives it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydicom.dataset import Dataset

from contourd.errors import InstanceMismatch, QueueUnavailable, RequestMalformed, SeriesUnusable, SpoolError

LONGEST_COMMENT = 64
SUCCESS = 0x0000
# PS3.4 B.2.3: out of resources; data set does not match SOP class; cannot understand. PS3.7 C: processing failure.
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
STATUS: Mapping[type[Exception], int] = MappingProxyType(
    {
        SpoolError: OUT_OF_RESOURCES,
        QueueUnavailable: OUT_OF_RESOURCES,
        InstanceMismatch: MISMATCH,
        SeriesUnusable: CANNOT_UNDERSTAND,
    }
)


def status_of(error: Exception) -> int:
    """Return the status by which an error is answered; PROCESSING_FAILURE where it is none of those that are known."""
    if isinstance(error, RequestMalformed):
        return error.status
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), PROCESSING_FAILURE)


def answer(status: int, comment: str = "") -> Dataset:
    """Make a response, with an Error Comment (0000,0902) as long as one may be."""
    made = Dataset()
    made.Status = status
    if comment:
        made.ErrorComment = comment.encode("ascii", "replace").decode()[:LONGEST_COMMENT]
    return made
