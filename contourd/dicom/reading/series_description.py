"""What a list may tell of a series, and by which spellings its patient's name is found.

What a scanner writes into SeriesDescription is anybody's, and may be the patient's name. A text that holds a part of
it, however it is spelled or joined to other words, is left out as a whole, and so is one that holds a long number: an
ID, a date of birth or an order number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.header_values import text_of, value_of
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.patient_identity import PATIENT_GROUP, TELLING_NOTHING
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

# Of a text that is kept.
LONGEST = 64
# Digits in a row that may be an ID, and letters of a name that are looked for within longer words, too.
LONG_NUMBER, JOINED = 5, 4
SHORTEST = 2
SHOWN = ("SeriesDescription", "ProtocolName", "BodyPartExamined", "StationName")
# Who else is named, and which order.
PERSONS = frozenset(
    {
        *("ReferringPhysicianName", "PhysiciansOfRecord", "PerformingPhysicianName", "OperatorsName"),
        *("NameOfPhysiciansReadingStudy", "RequestingPhysician"),
    }
)
ORDERS = frozenset({"AccessionNumber", "StudyID", "AdmissionID"})
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})


@dataclass(frozen=True, slots=True)
class SeriesDescription:
    """What an image says of its series; a text that may hold a name is empty.

    Attributes
    ----------
    study_date
        As 20261130.
    names
        Spellings of the patient's name, to be hashed and not to be kept.
    words
        Of what identifies the patient, alike.
    """

    study_date: str
    description: str
    body_part: str
    protocol: str
    station: str
    names: frozenset[str]
    words: frozenset[str]

    def shown(self, text: str) -> str:
        """Return another text of the same image as a list may show it."""
        return without_names(text, self.words)


def read_description(path: Path) -> SeriesDescription:
    """Read one image.

    Raises
    ------
    SeriesUnusable
        It is not there any more, or cannot be read.
    """
    try:
        return describe(read_dicom(path, stop_before_pixels=True))
    except UNREADABLE as error:
        raise SeriesUnusable(HoldReason.IMAGE_GONE, what=path.name) from error


def describe(header: Dataset) -> SeriesDescription:
    """Say what a dataset's header says."""
    words = frozenset(_identifying(header))
    description, protocol, body_part, station = (without_names(text_of(header, key), words) for key in SHOWN)
    date = str(value_of(header, "StudyDate") or "").strip()
    date = date if len(date) == 8 and date.isdecimal() and date.isascii() else ""
    return SeriesDescription(
        date, description, body_part, protocol, station, _spellings_of_name(str(header.get("PatientName") or "")), words
    )


def without_names(text: str, words: Iterable[str]) -> str:
    """Return a text cut to what is kept of one, or nothing where it may hold one of the words."""
    numbers = ("".join(run) for digits, run in groupby(text, str.isdecimal) if digits)
    if any(len(number) >= LONG_NUMBER for number in numbers):
        return ""
    for spelled in _both(text):
        own = _split(spelled)
        joined = "".join(own)
        if any(word in own or (len(word) >= JOINED and word in joined) for word in words):
            return ""
    return text[:LONGEST]


def typed_spellings(text: str) -> frozenset[str]:
    """Return the spellings of a name that a person types, as ``Doe^Jane``, ``Jane Doe`` or a family name alone."""
    return frozenset(" ".join(sorted(words)) for spelled in _both(text) if (words := _split(spelled)))


def _spellings_of_name(name: str) -> frozenset[str]:
    """Return those of a Person Name (PS3.5 6.2): of each group the whole, family and given name, and the family."""
    found: set[str] = set()
    for group in name.split("="):
        parts = group.split("^")
        for some in (parts, parts[:2], parts[:1]):
            found |= typed_spellings(" ".join(some))
    return frozenset(found)


def _identifying(header: Dataset) -> Iterator[str]:
    """Yield the parts of every person's name, and what identifies the patient otherwise, as a whole."""
    for tag in list(header.keys()):
        keyword = keyword_for_tag(tag)
        if keyword in TELLING_NOTHING or not (tag.group == PATIENT_GROUP or keyword in PERSONS or keyword in ORDERS):
            continue
        try:
            element = header[tag]
            values = element.value if element.VM > 1 else [element.value]
            texts = [str(value) for value in values if element.VR != "SQ" and value is not None]
        except UNREADABLE:
            continue
        for text in texts:
            for words in map(_split, _both(text)):
                found = words if element.VR == "PN" else ["".join(words)]
                yield from (word for word in found if len(word) >= SHORTEST)


def _both(text: str) -> tuple[str, str]:
    """Return a text in small letters without accents, and with an umlaut as two letters."""
    small = unicodedata.normalize("NFC", text).casefold()
    return _plain(small), _plain(small.translate(UMLAUTS))


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _split(text: str) -> list[str]:
    """Return what stands between characters that are neither letters nor digits."""
    return "".join(c if c.isalnum() else " " for c in text).split()
