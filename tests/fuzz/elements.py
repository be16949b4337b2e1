"""Datasets as lists of elements that may lie: taken apart, changed, and written unchecked (PS3.5 7.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
WIDTH = {"US": 2, "SS": 2, "OW": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4, "FD": 8, "OD": 8}
UNDEFINED = 0xFFFFFFFF
ITEM, END_OF_ITEM, END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass(frozen=True)
class Element:
    """One element: bytes, in little endian, or items; ``said`` is the length that it claims."""

    tag: int
    vr: str
    value: bytes | tuple[tuple[Element, ...], ...]
    said: int | None = None


def elements_of(dataset: Dataset) -> list[Element]:
    """Take a dataset apart that was read from Explicit VR Little Endian."""
    found = []
    for tag in dataset.keys():  # noqa: SIM118 (a dataset yields elements)
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.VR != "SQ":
            found.append(Element(int(tag), str(element.VR), element.value or b""))
        elif dataset[tag].VR == "SQ":
            items = tuple(tuple(elements_of(item)) for item in dataset[tag].value)
            found.append(Element(int(tag), "SQ", items))
    return found


def read_elements(path: Path) -> list[Element]:
    return elements_of(pydicom.dcmread(path))


def encode(elements: list[Element] | tuple[Element, ...], syntax: UID) -> bytes:
    return b"".join(_encode(e, syntax.is_implicit_VR, "<" if syntax.is_little_endian else ">") for e in elements)


def _encode(element: Element, implicit: bool, order: str) -> bytes:
    if isinstance(element.value, bytes):
        value = _swapped(element.value, WIDTH.get(element.vr, 1)) if order == ">" else element.value
        length = len(value)
    else:
        value = b"".join(_item(item, implicit, order) for item in element.value)
        value, length = value + _head(END_OF_SEQUENCE, 0, order), UNDEFINED
    length = element.said if element.said is not None else length
    tag = struct.pack(f"{order}HH", element.tag >> 16, element.tag & 0xFFFF)
    if implicit:
        return tag + struct.pack(f"{order}L", length) + value
    vr = element.vr.encode("latin-1", "replace")[:2]
    if element.vr in LONG:
        return tag + vr + b"\0\0" + struct.pack(f"{order}L", length) + value
    return tag + vr + struct.pack(f"{order}H", min(length, 0xFFFF)) + value


def _item(elements: tuple[Element, ...], implicit: bool, order: str) -> bytes:
    content = b"".join(_encode(e, implicit, order) for e in elements)
    return _head(ITEM, UNDEFINED, order) + content + _head(END_OF_ITEM, 0, order)


def _head(tag: int, length: int, order: str) -> bytes:
    return struct.pack(f"{order}HHL", tag >> 16, tag & 0xFFFF, length)


def _swapped(value: bytes, width: int) -> bytes:
    whole = len(value) // width * width
    return b"".join(value[i : i + width][::-1] for i in range(0, whole, width)) + value[whole:]


def nested(depth: int, syntax: UID, defined: bool) -> bytes:
    """A sequence in a sequence, so many times, in the bytes of a transfer syntax."""
    order = "<" if syntax.is_little_endian else ">"
    tag = struct.pack(f"{order}HH", 0x0008, 0x1140)
    head = tag if syntax.is_implicit_VR else tag + b"SQ\0\0"
    if not defined:
        opened = head + struct.pack(f"{order}L", UNDEFINED) + _head(ITEM, UNDEFINED, order)
        return opened * depth + (_head(END_OF_ITEM, 0, order) + _head(END_OF_SEQUENCE, 0, order)) * depth
    size, step, parts = 0, len(head) + 12, []
    for _ in range(depth):
        parts.append(head + struct.pack(f"{order}L", size + 8) + _head(ITEM, size, order))
        size += step
    return b"".join(reversed(parts))


def changed(elements: list[Element], tag: int, **fields: object) -> list[Element]:
    return [replace(e, **fields) if e.tag == tag else e for e in elements]
