"""Files and datasets that other programs read, though they are not as the Standard wants them: brought to its form.

Three things: no preamble or file meta information (PS3.10 7.1; exports of XiO, Monaco and old archives), zero bytes
behind the last element, and elements whose value representation is two NULs (taken for UN, PS3.5 6.2.2).
"""

from __future__ import annotations

import struct
from collections.abc import Set
from typing import Any

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

PREAMBLE_BYTES, PREFIX = 128, b"DICM"
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
NULS = b"\0\0"
UNKNOWN = b"UN"
SEQUENCE = b"SQ"
META, UNREADABLE = b"\2\0", (struct.error, ValueError, IndexError)
HEAD = struct.Struct("<HH2sH")
UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
META_GROUP = 0x0002
TRANSFER_SYNTAX = 0x00020010
SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
FIRST_GROUP = 0x0008
MOST_ELEMENTS = 100_000
DEEPEST = 64
MOST_ELEMENTS_TO_THE_END = 2_000_000
GUESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
LONGEST_UID = 64


class _CutOff(ValueError):
    """An element goes beyond the end of the content."""


def repair_file(content: bytes) -> bytes:
    """Return a file's bytes with preamble, file meta information and a dataset in order; the very object if they were.

    What is no DICOM file is returned as it is.
    """
    try:
        whole, start, syntax = _with_meta(content)
    except UNREADABLE:
        return content
    if syntax == DeflatedExplicitVRLittleEndian:
        return whole
    try:
        in_order: bytes = _Walk(whole, start, UID(syntax)).mended()
    except UNREADABLE:
        return whole
    return in_order


def _with_meta(content: bytes) -> tuple[bytes, int, str]:
    """Give a file preamble and file meta information where it has none; returns with it where its dataset begins.

    Raises
    ------
    ValueError
        It is no DICOM file.
    """
    if content.startswith(PREFIX):
        content = bytes(PREAMBLE_BYTES) + content
    elif content.startswith(META):
        content = bytes(PREAMBLE_BYTES) + PREFIX + content
    start, syntax = dataset_of(content)
    if syntax:
        return content, start, syntax
    for guessed in GUESSED:
        uids = _uids(content[start:], guessed)
        if SOP_CLASS in uids:
            meta = _meta(uids[SOP_CLASS], uids.get(SOP_INSTANCE, b""), guessed)
            return meta + content[start:], len(meta), str(guessed)
    raise ValueError("no DICOM file")


def repair_dataset(content: bytes | memoryview, transfer_syntax: UID) -> bytes | memoryview:
    """Do the same for a dataset without file meta information, not deflated."""
    try:
        whole: bytes | memoryview = _Walk(content, 0, transfer_syntax).mended()
        return whole
    except UNREADABLE:
        return content


def is_cut_off(content: bytes) -> bool:
    """Return whether a file ends within an element or a sequence; a deflated dataset is not looked into.

    What is no DICOM file, or is damaged otherwise, is not.
    """
    try:
        whole, start, syntax = _with_meta(content)
        if syntax == DeflatedExplicitVRLittleEndian:
            return False
        _Walk(whole, start, UID(syntax), MOST_ELEMENTS_TO_THE_END).go_to_the_end()
    except (_CutOff, struct.error):
        return True
    except UNREADABLE:
        return False
    return False


def dataset_of(content: bytes) -> tuple[int, str]:
    """Return where the dataset of a file begins, 0 where it has no prefix; and its transfer syntax, as far as told."""
    if content[PREAMBLE_BYTES : PREAMBLE_BYTES + len(PREFIX)] != PREFIX:
        return 0, ""
    at, syntax = PREAMBLE_BYTES + len(PREFIX), ""
    while content.startswith(META, at):
        tag, vr, start, length = _explicit(content, at, "<")
        if vr not in LONG | SHORT or start + length > len(content):
            raise ValueError("damaged file meta information")
        if tag == TRANSFER_SYNTAX:
            syntax = content[start : start + length].rstrip(b"\0 ").decode("ascii")
        at = start + length
    return at, syntax


def _uids(content: bytes, syntax: UID) -> dict[int, bytes]:
    """Return SOP class and instance of a dataset, if it can be one in a transfer syntax."""
    found: dict[int, bytes] = {}
    order = "<" if syntax.is_little_endian else ">"
    head = _implicit if syntax.is_implicit_VR else _explicit
    at = before = 0
    try:
        while not before or before < SOP_INSTANCE:
            tag, vr, start, length = head(content, at, order)
            if tag <= before or tag >> 16 != FIRST_GROUP or start + length > len(content):
                break
            if not syntax.is_implicit_VR and vr not in LONG | SHORT:
                break
            value = content[start : start + length].rstrip(b"\0 ")
            if tag in (SOP_CLASS, SOP_INSTANCE) and 0 < len(value) <= LONGEST_UID and not value.strip(b".0123456789"):
                found[tag] = value
            at, before = start + length, tag
    except struct.error:
        pass
    return found


def _meta(sop_class: bytes, sop_instance: bytes, syntax: UID) -> bytes:
    """Make preamble, prefix and file meta information."""
    elements = struct.pack("<HH2sHI", META_GROUP, 0x0001, b"OB", 0, 2) + b"\0\1"
    for element, uid in ((0x0002, sop_class), (0x0003, sop_instance), (0x0010, syntax.encode("ascii"))):
        value = uid + b"\0" * (len(uid) % 2)
        elements += struct.pack("<HH2sH", META_GROUP, element, b"UI", len(value)) + value
    length = struct.pack("<HH2sHI", META_GROUP, 0x0000, b"UL", 4, len(elements))
    return bytes(PREAMBLE_BYTES) + PREFIX + length + elements


def _explicit(content: bytes | memoryview, at: int, order: str) -> tuple[int, bytes, int, int]:
    """Return an element's tag and value representation, where its value begins, and its length."""
    group, element, vr, length = struct.unpack_from(f"{order}HH2sH", content, at)
    if vr in LONG:
        return group << 16 | element, vr, at + 12, struct.unpack_from(f"{order}I", content, at + 8)[0]
    return group << 16 | element, vr, at + 8, length


def _implicit(content: bytes | memoryview, at: int, order: str) -> tuple[int, bytes, int, int]:
    group, element, length = struct.unpack_from(f"{order}HHI", content, at)
    return group << 16 | element, b"", at + 8, length


class _Walk:
    """Goes from element to element of a dataset; raises ValueError or struct.error where it cannot."""

    def __init__(
        self, content: bytes | memoryview, start: int, syntax: UID, most_elements: int = MOST_ELEMENTS
    ) -> None:
        self._content = content
        self._start = start
        self._most_elements = most_elements
        self._order = "<" if syntax.is_little_endian else ">"
        self._is_explicit = not syntax.is_implicit_VR
        self._elements = 0

    def go_to_the_end(self) -> None:
        """Go over all elements, and zeros behind the last of them."""
        at, before = self._start, -1
        while at < len(self._content):
            tag = self._tag(at) if at + 4 <= len(self._content) else 0
            if tag <= before and not bytes(self._content[at:]).strip(b"\0"):
                return
            at, before = self._after(at, self._is_explicit, 0), tag

    def mended(self) -> Any:
        """Return the content with its elements in order, the very object if they were."""
        content = self._content
        at = self._start
        before = -1
        pieces: list[bytes | memoryview] = []
        kept = 0
        while at < len(content):
            tag = self._tag(at) if at + 4 <= len(content) else 0
            if tag <= before:
                break
            if self._is_explicit and bytes(content[at + 4 : at + 6]) == NULS:
                start, end = self._nameless(at, tag)
                head = bytes(content[at : at + 4]) + UNKNOWN + struct.pack(f"{self._order}HI", 0, end - start)
                pieces += [content[kept:at], head, content[start:end]]
                kept = at = end
            else:
                at = self._after(at, self._is_explicit, 0)
            before = tag
        if before < 0 or bytes(content[at:]).strip(b"\0"):
            return content
        if not pieces and at == len(content):
            return content
        return b"".join([*pieces, content[kept:at]])

    def _tag(self, at: int) -> int:
        group, element = struct.unpack_from(f"{self._order}HH", self._content, at)
        return int(group) << 16 | int(element)

    def _nameless(self, at: int, tag: int) -> tuple[int, int]:
        """Return where the value of an element begins and ends whose value representation is two NULs.

        Its length has 16 bits, as DCMTK and GDCM take it, if another element follows then; else 32, as in UN.
        """
        ends: list[tuple[int, int]] = []
        for start, kind in ((at + 8, "H"), (at + 12, "I")):
            (length,) = struct.unpack_from(f"{self._order}{kind}", self._content, start - struct.calcsize(f"<{kind}"))
            ends.append((start, start + length))
        for known in (LONG | SHORT, {NULS}):
            for start, end in ends:
                if end <= len(self._content) and self._is_followed(end, tag, known):
                    return start, end
        raise ValueError(tag)

    def _is_followed(self, at: int, tag: int, known: Set[bytes]) -> bool:
        """Return whether another element, of a known value representation, can begin here, or nothing is left."""
        if len(self._content) - at < HEAD.size:
            return not bytes(self._content[at:]).strip(b"\0")
        return self._tag(at) > tag and bytes(self._content[at + 4 : at + 6]) in known

    def _after(self, at: int, explicit: bool, depth: int) -> int:
        """Return where an element ends."""
        self._elements += 1
        if self._elements > self._most_elements or depth > DEEPEST:
            raise ValueError("too many elements")
        _, vr, start, length = (_explicit if explicit else _implicit)(self._content, at, self._order)
        if explicit and vr not in LONG and vr not in SHORT:
            raise ValueError(vr)
        if length == UNDEFINED:
            return self._after_items(start, explicit and vr != UNKNOWN, depth)
        if start + length > len(self._content):
            raise _CutOff
        return int(start + length)

    def _after_items(self, at: int, explicit: bool, depth: int) -> int:
        """Return where a sequence, or encapsulated pixels, of undefined length end (PS3.5 7.5, A.4)."""
        while True:
            tag, _, start, length = _implicit(self._content, at, self._order)
            if tag == SEQUENCE_END:
                return start
            if tag != ITEM:
                raise ValueError("no item")
            if length != UNDEFINED and start + length > len(self._content):
                raise _CutOff
            at = start + length
            if length == UNDEFINED:
                at = start
                while self._tag(at) != ITEM_END:
                    at = self._after(at, explicit, depth + 1)
                at += 8
