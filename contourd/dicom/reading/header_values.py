"""Single values of a header: short, finite and fit to be shown, whatever the file says."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import pydicom
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from contourd.system.logs import one_line

LONGEST_TEXT, LONGEST_VALUE_BYTES = 64, 4096
# Of values that were converted, for the next image of the same series.
KEPT_VALUES = 1024


def value_of(ds: Dataset, keyword: str) -> Any:
    """Return a value that is worth converting: a million numbers take seconds, and none of ours is so long."""
    tag = _tag(keyword)
    element = ds.get_item(tag)
    if not isinstance(element, RawDataElement):
        return None if element is None else element.value
    if element.length > LONGEST_VALUE_BYTES:
        raise ValueError(f"{keyword} is too long")
    if not isinstance(element.value, bytes):
        return ds[tag].value  # it is read from the file now
    encoding = ds.original_character_set or default_encoding
    return _converted(element._replace(value_tell=0), encoding if isinstance(encoding, str) else tuple(encoding))


@lru_cache(KEPT_VALUES)
def _converted(element: RawDataElement, encoding: str | tuple[str, ...]) -> Any:
    """Convert a value once: most are the same in every image of a series, and nobody changes them."""
    return convert_raw_data_element(element, encoding=encoding if isinstance(encoding, str) else list(encoding)).value


def text_of(ds: Dataset, keyword: str) -> str:
    """Return a short text that may be shown: what it says ends up in reasons and logs."""
    return one_line(str(value_of(ds, keyword) or "").strip(), LONGEST_TEXT)


def texts_of(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the same of an attribute of several texts."""
    found = value_of(ds, keyword)
    if not found:
        return ()
    return tuple(one_line(v, LONGEST_TEXT) for v in ((found,) if isinstance(found, str) else found))


def comparable_of(ds: Dataset, keyword: str) -> str:
    """Return letters and digits of a value, to tell whether two say the same; of what cannot be decoded, too."""
    element = ds.get_item(_tag(keyword))
    value = b"" if element is None else element.value
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return "".join(c for c in text[:LONGEST_VALUE_BYTES].casefold() if c.isalnum())


def whole_number(text: str) -> int | None:
    """Return an integer string (VR IS), None where it is none."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,10}", text) else None


def numbers_of(ds: Dataset, keyword: str, n: int) -> tuple[float, ...]:
    """Return the n values of an attribute; empty where there are not n finite ones."""
    found = value_of(ds, keyword)
    if n == 1 and found not in (None, "") and not isinstance(found, pydicom.multival.MultiValue):
        found = [found]
    if found is None or not isinstance(found, Sequence | pydicom.multival.MultiValue) or len(found) != n:
        return ()
    numbers = tuple(float(v) for v in found)
    return numbers if all(map(math.isfinite, numbers)) else ()


@cache
def _tag(keyword: str) -> BaseTag:
    """Return a keyword's tag; to look it up takes longer than to read a number."""
    return Tag(keyword)
