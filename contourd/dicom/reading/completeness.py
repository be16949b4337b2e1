"""Whether a dataset is whole, and names its image: what is cut off, nameless or no dataset is refused."""

from __future__ import annotations

import re
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from contourd.dicom.reading.header_values import value_of
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

# PS3.5 9.1; leading zeroes of a component, which it forbids, are common and do no harm.
VALID_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
LONGEST_UID = 64
# An element or an item takes some hundred times its bytes in memory.
LARGEST_SEQUENCE_BYTES = 2 * 2**20
IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
FOREIGN_GROUPS = (0x0000, 0x0002)


def refuse_nameless(ds: Dataset, what: str) -> None:
    """Refuse a dataset without the UIDs that name it, or whose are none."""
    missing = [keyword for keyword in IDENTIFYING if not value_of(ds, keyword)]
    if missing:
        raise SeriesUnusable(HoldReason.HEADER_LACKS, what=what, keywords=", ".join(missing))
    for keyword in IDENTIFYING:
        uid = str(value_of(ds, keyword))
        if len(uid) > LONGEST_UID or not VALID_UID.fullmatch(uid):
            raise SeriesUnusable(HoldReason.UID_ILLEGAL, what=what, keyword=keyword)


def refuse_foreign_groups(ds: Dataset, what: str) -> None:
    """Refuse elements of a command or of file meta information: a file that begins so is read as another."""
    if any(tag.group in FOREIGN_GROUPS for tag in ds.keys()):  # noqa: SIM118 (a dataset yields elements)
        raise SeriesUnusable(HoldReason.FOREIGN_ELEMENTS, what=what)


def refuse_truncated(ds: Dataset, what: str, size: int) -> None:
    """Refuse an element that goes beyond the end: pydicom reads what there is and says nothing."""
    for element in ds.values():
        tell, length = getattr(element, "value_tell", None), getattr(element, "length", None)
        if tell is not None and length not in (None, 0xFFFFFFFF) and tell + length > size:
            raise SeriesUnusable(HoldReason.CUT_OFF, what=what, here=size, expected=tell + length)
        if length not in (None, 0xFFFFFFFF) and length > LARGEST_SEQUENCE_BYTES and _may_be_sequence(element):
            raise SeriesUnusable(HoldReason.LARGE_SEQUENCE, what=what, mib=length >> 20)
    if ds.get("SOPClassUID") == CTImageStorage and "PixelData" not in ds:
        raise SeriesUnusable(HoldReason.NO_PIXELS, what=what)


def _may_be_sequence(element: Any) -> bool:
    """Return whether an element could be made of items; a private one is not looked into, unless it says so itself."""
    if element.tag.is_private:
        return bool(element.VR == "SQ")
    if element.VR is None:  # implicit: the dictionary knows, or nobody
        return not dictionary_has_tag(element.tag) or dictionary_VR(element.tag) == "SQ"
    return element.VR in ("SQ", "UN")
