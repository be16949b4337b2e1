"""What is copied from a CT into its structure set, brought to legal form before anything is contoured.

DICOM PS3.5 6.2 (value representations) and 6.1.2 (character sets), PS3.3 C.7.1 to C.7.4. A value is rewritten where
its meaning is certain, as a date of ACR-NEMA 2.0; what only describes is cut; anything else is left empty. What
identifies the patient is never changed: where it is illegal itself, the series is held.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import date
from types import MappingProxyType

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, encode_string, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

# Copied into the structure set; those that are missing are written empty (type 2).
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
IF_PRESENT = (
    *("IssuerOfPatientID", "OtherPatientIDsSequence", "PatientAge", "PatientSize", "PatientWeight"),
    *("StudyDescription", "InstitutionName"),
)
# The first of each that is there becomes the structure set's own date and time.
DATES = ("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate")
TIMES = ("ContentTime", "AcquisitionTime", "SeriesTime", "StudyTime")
POSITION_REFERENCE = "PositionReferenceIndicator"
IDENTIFIES = frozenset({"PatientName", "PatientID", "IssuerOfPatientID"})
DESCRIBES = frozenset({"StudyDescription", "InstitutionName"})
LONGEST: Mapping[str, int] = MappingProxyType({"SH": 16, "LO": 64, "CS": 16, "PN": 64})
LONGEST_DS = 16
# PS3.5 6.2.1: alphabetic, ideographic, phonetic; family, given, middle, prefix, suffix.
MOST_GROUPS, MOST_COMPONENTS = 3, 5
CHARACTER_SET = "SpecificCharacterSet"
ISO_8859 = {1: 100, 2: 101, 3: 109, 4: 110, 5: 144, 6: 127, 7: 126, 8: 138, 9: 148, 11: 166, 15: 203}
DEFINED_TERMS = frozenset({*python_encoding, "ISO_IR 203"})
FOREIGN = "holds characters that are not of its character set"
SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O"}
PATIENT_ID_TYPES = frozenset({"TEXT", "RFID", "BARCODE"})
NOTHING_LEGAL: Mapping[str, str] = MappingProxyType(
    {
        "DA": "it is no date",
        "TM": "it is no time",
        "AS": "it is no age with its unit",
        "DS": "it is no number",
        "CS": "it is none of M, F and O",
    }
)


def bring_to_legal_form(header: Dataset) -> tuple[str, ...]:
    """Change what will be copied from a header that was read from a file, undecoded; returns what was done, in words.

    No value is quoted.

    Raises
    ------
    SeriesUnusable
        What identifies the patient is illegal itself.
    """
    line, encodings = _with_legal_character_set(header)
    for keyword in dict.fromkeys((*PATIENT, *STUDY, *IF_PRESENT, POSITION_REFERENCE, *DATES, *TIMES)):
        if keyword not in header:
            continue
        if dictionary_VR(keyword) == "SQ":
            line += _without_illegal_items(header, keyword)
            continue
        raw = _content(header, keyword)
        text, known = _text(raw, encodings)
        if not known and keyword in IDENTIFIES:
            line.append(f"{keyword} copied as it is written: it {FOREIGN}")
        legal, change = _legal(keyword, text) if known or keyword in IDENTIFIES else ("", f"left empty: it {FOREIGN}")
        if change:
            line.append(f"{keyword} {change}")
        if legal != text:
            _put(header, keyword, _bytes(legal, encodings))
        elif raw.rstrip(b" ").endswith(b"\0") or dictionary_VR(keyword) in NOTHING_LEGAL:
            _put(header, keyword, raw.rstrip(b"\0 "))  # padding is no part of a value (PS3.5 6.2)
    return tuple(line)


def flaw_of_identity(keyword: str, text: str) -> str:
    """Return in words why a Patient Name, a Patient ID or its issuer is illegal; empty where it is not."""
    return _name_flaw(text) if dictionary_VR(keyword) == "PN" else _label_flaw(text, LONGEST[dictionary_VR(keyword)])


def _legal(keyword: str, text: str) -> tuple[str, str]:
    """Return the legal form of a value without its padding, and what was done to it."""
    vr = dictionary_VR(keyword)
    if keyword in IDENTIFIES:
        flaw = flaw_of_identity(keyword, text)
        if flaw:
            raise SeriesUnusable(HoldReason.IDENTITY_ILLEGAL, keyword=keyword, flaw=flaw)
        return text, ""
    if vr in RULES:
        legal = RULES[vr](text.strip())
        if legal is None:
            return "", f"left empty: {NOTHING_LEGAL[vr]}"
        return legal, "" if legal == text.strip() else "rewritten: its form was not DICOM's"
    flaw = _name_flaw(text) if vr == "PN" else _label_flaw(text, LONGEST[vr])
    if not flaw:
        return (text if len(text) <= LONGEST[vr] else text.strip()), ""
    if keyword not in DESCRIBES:
        return "", f"left empty: it {flaw}"
    plain = " ".join("".join(c if _is_printable(c) and c != "\\" else " " for c in text).split())
    return plain[: LONGEST[vr]].rstrip(), f"cut: it {flaw}"


def _label_flaw(text: str, longest: int) -> str:
    return _character_flaw(text) or (
        f"has {len(text.strip())} characters, where {longest} are allowed" if len(text.strip()) > longest else ""
    )


def _name_flaw(text: str) -> str:
    groups = text.split("=")
    longest = max(len(group.rstrip()) for group in groups)
    if flaw := _character_flaw(text):
        return flaw
    if len(groups) > MOST_GROUPS:
        return f"has {len(groups)} component groups, where {MOST_GROUPS} are allowed"
    if max(group.count("^") for group in groups) >= MOST_COMPONENTS:
        return f"has more than {MOST_COMPONENTS} components"
    return f"has {longest} characters, where {LONGEST['PN']} are allowed" if longest > LONGEST["PN"] else ""


def _character_flaw(text: str) -> str:
    if not all(map(_is_printable, text)):
        return "holds control characters"
    return "holds several values, or a backslash" if "\\" in text else ""


def _is_printable(character: str) -> bool:
    return ord(character) >= 0x20 and ord(character) != 0x7F


def _date(text: str) -> str | None:
    """Read a date, also as ACR-NEMA 2.0 (YYYY.MM.DD) and ISO 8601 write it; any other order is a guess."""
    found = re.fullmatch(r"(\d{4})([.-]?)(\d{2})\2(\d{2})", text, re.ASCII)
    if not found:
        return None if text else ""
    try:
        date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None
    return found[1] + found[3] + found[4]


def _time(text: str) -> str | None:
    """Read a time, also as ACR-NEMA 2.0 writes it (HH:MM:SS.frac), and with more than microseconds."""
    found = re.fullmatch(r"(\d{2})(?:(:?)(\d{2})(?:\2(\d{2})(?:[.,](\d*))?)?)?", text, re.ASCII)
    if not found:
        return None if text else ""
    hours = found[1]
    minutes = found[3] or ""
    seconds = found[4] or ""
    fraction = (found[5] or "")[:6]
    if int(hours) > 23 or int(minutes or 0) > 59 or int(seconds or 0) > 59:
        return None
    return hours + minutes + seconds + (f".{fraction}" if fraction else "")


def _age(text: str) -> str | None:
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text, re.ASCII | re.IGNORECASE)
    if not found:
        return None if text else ""
    return f"{int(found[1]):03}{found[2].upper()}"


def _decimal(text: str) -> str | None:
    """Read a weight in kg or a size in m: no comma of theirs parts thousands."""
    if not re.fullmatch(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?", text, re.ASCII):
        return None if text else ""
    plain = text.replace(",", ".")
    if not math.isfinite(float(plain)):
        return None
    return plain if len(plain) <= LONGEST_DS else f"{float(plain):.9g}"


def _sex(text: str) -> str | None:
    return SEXES.get(text.upper()) if text else ""


RULES: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {"DA": _date, "TM": _time, "AS": _age, "DS": _decimal, "CS": _sex}
)


def _with_legal_character_set(header: Dataset) -> tuple[list[str], list[str]]:
    """Correct what is only misspelt, and leave out what is no character set; returns what was done, and encodings."""
    if CHARACTER_SET not in header:
        return [], [""]
    raw = _content(header, CHARACTER_SET)
    written = [term.strip(" \0") for term in raw.decode("latin_1").split("\\")]
    terms = [_term(term) for term in written]
    lines = []
    if not DEFINED_TERMS.issuperset(terms):
        terms, lines = [""], [f"{CHARACTER_SET} left out: it is none of DICOM's"]
    elif terms != written:
        lines = [f"{CHARACTER_SET} rewritten: its form was not DICOM's"]
    implicit, little = header.original_encoding
    if not any(terms):
        header.pop(CHARACTER_SET, None)
        header.set_original_encoding(implicit, little, default_encoding)
        return lines, [""]
    if terms != written or raw.endswith(b"\0"):
        _put(header, CHARACTER_SET, "\\".join(terms).encode("ascii"))
        header.set_original_encoding(implicit, little, _encodings(terms))
    return lines, _encodings(terms)


def _encodings(terms: list[str]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what stands beside a character set that stands alone
        return list(convert_encodings(terms))


def _term(written: str) -> str:
    """Return the defined term (PS3.3 C.12.1.1.2) that is meant, or what is written."""
    if written in DEFINED_TERMS:
        return written
    plain = re.sub(r"[ _-]", "", written.upper())
    if found := re.fullmatch(r"ISO8859(\d{1,2})", plain):
        return f"ISO_IR {ISO_8859.get(int(found[1]), written)}"
    if found := re.fullmatch(r"ISO2022IR(\d+)", plain):
        return f"ISO 2022 IR {found[1]}"
    if found := re.fullmatch(r"ISOIR(\d+)", plain):
        return f"ISO_IR {found[1]}"
    return {"UTF8": "ISO_IR 192", "LATIN1": "ISO_IR 100", "ASCII": "", "USASCII": ""}.get(plain, written)


def _without_illegal_items(header: Dataset, keyword: str) -> list[str]:
    """Leave out a whole sequence of other patient IDs where an item of it is illegal: which is right nobody knows."""
    legal = all(
        not flaw_of_identity("PatientID", str(item.get("PatientID") or " "))
        and str(item.get("PatientID") or "").strip()
        and item.get("TypeOfPatientID") in PATIENT_ID_TYPES
        and not flaw_of_identity("IssuerOfPatientID", str(item.get("IssuerOfPatientID") or ""))
        and not any(tag.is_private for tag in item.keys())  # noqa: SIM118 (a dataset yields elements)
        for item in header[keyword].value
    )
    if legal and header[keyword].value:
        return []
    del header[keyword]
    return [f"{keyword} left out: an item of it is not DICOM's, or there is none"]


def _content(header: Dataset, keyword: str) -> bytes:
    """Return the bytes of a value."""
    element = header.get_item(keyword)
    if isinstance(element, RawDataElement):
        return bytes(element.value or b"")
    value = header[keyword].value
    values = value if isinstance(value, list | tuple) or header[keyword].VM > 1 else [value]
    return "\\".join("" if v is None else str(v) for v in values).encode(errors="replace")


def _text(raw: bytes, encodings: list[str]) -> tuple[str, bool]:
    """Decode a value without what pads it; and say whether all of it is of the character set."""
    raw = raw.rstrip(b"\0 ")
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii"), True
    if encodings != [""]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = decode_bytes(raw, encodings, set(b"\r\n\t\f\\^="))
        if "\ufffd" not in text:
            return text, True
    return raw.decode("latin_1"), False


def _bytes(text: str, encodings: list[str]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(encode_string(text, encodings if encodings != [""] else ["latin_1"]))


def _put(header: Dataset, keyword: str, content: bytes) -> None:
    """Set a value undecoded, padded to an even length."""
    tag, padded = Tag(keyword), content + b" " * (len(content) % 2)
    implicit, little = header.original_encoding
    header[tag] = RawDataElement(
        tag, dictionary_VR(tag), len(padded), padded, 0, bool(implicit), bool(little if little is not None else True)
    )
