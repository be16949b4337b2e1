"""Mutations of datasets that know what a dataset is: one seed, one number, one input."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from tests.fuzz.elements import UNDEFINED, Element, encode, nested

TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
VRS = (*sorted(TEXT), "AT", "FD", "FL", "OB", "OW", "SL", "SQ", "SS", "UL", "UN", "US", "??", "\0\0")
HOSTILE: tuple[bytes, ...] = (
    b"",
    b" ",
    b"\0",
    b"\\",
    b"\\\\\\",
    b"../../../../tmp/contourd-fuzz",
    b"/tmp/contourd-fuzz",
    b"1.2.3/../../x",
    b"1.2.3\0.4",
    b"1." * 40,
    b"1" * 65,
    "1.2.٣.4".encode(),
    "\u202e患者名".encode(),
    b"\xff\xfe\xfd",
    b"a\nERROR forged",
    b"a\r\n2026-01-01 00:00:00,000 ERROR forged",
    b"\x1b[2J\x1b]0;owned\x07",
    b"\x1b$B\x1b(J\x1b)I",
    b"[bold red]x[/bold red][[/]]",
    b"{0.__class__}%s%n${HOME}",
    b"nan",
    b"inf\\-inf\\nan",
    b"1e308\\-1e308\\1e308",
    b"1e-320\\1e-320",
    b"0\\0\\0\\0\\0\\0",
    b"-1",
    b"99999999999999999999",
    b"1" * 5000,
    b"1." + b"3" * 5000,
    b"1\\" * 20000,
)
CHARSETS = (b"ISO_IR 192", b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"..", b"rot13", b"\n", b"hex")
GEOMETRY = (0x00200032, 0x00200037, 0x00280030, 0x00281052, 0x00281053, 0x00200013, 0x00180050)
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e-308",
    "0",
    "-0",
    "1e10",
    "1e5",
    "-1024",
    "0.1",
    "1,5",
    "1_0",
    "٣",
)
SHAPE = (0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280006)
IDENTITY = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200052, 0x00100020)
FILES = (0x00041500, 0x00041130, 0x00081190, 0x0040E010, 0x0028700A, 0x00041220)
PIXELS = 0x7FE00010
Elements = list[Element]


def _any(rng: random.Random, elements: Elements) -> int:
    return rng.randrange(len(elements)) if elements else 0


def _with(elements: Elements, element: Element) -> Elements:
    kept = [e for e in elements if e.tag != element.tag]
    return sorted([*kept, element], key=lambda e: e.tag)


def _text(rng: random.Random, elements: Elements) -> Elements:
    places = [i for i, e in enumerate(elements) if e.vr in TEXT]
    if places:
        i = rng.choice(places)
        elements[i] = replace(elements[i], value=rng.choice(HOSTILE))
    return elements


def _identity(rng: random.Random, elements: Elements) -> Elements:
    tag = rng.choice(IDENTITY)
    return _with(elements, Element(tag, "LO" if tag == 0x00100020 else "UI", rng.choice(HOSTILE)))


def _geometry(rng: random.Random, elements: Elements) -> Elements:
    tag = rng.choice(GEOMETRY)
    count = {0x00200032: 3, 0x00200037: 6, 0x00280030: 2}.get(tag, 1) if rng.random() < 0.9 else rng.randrange(9)
    return _with(elements, Element(tag, "DS", "\\".join(rng.choice(NUMBERS) for _ in range(count)).encode()))


def _shape(rng: random.Random, elements: Elements) -> Elements:
    for _ in range(rng.choice((1, 1, 3))):
        tag, number = rng.choice(SHAPE), rng.choice((0, 1, 2, 3, 8, 12, 17, 32, 1024, 1025, 32768, 65535))
        frames = tag == 0x00280008
        value = rng.choice((b"0", b"2", b"-1", b"2147483647")) if frames else struct.pack("<H", number)
        elements = _with(elements, Element(tag, "IS" if frames else "US", value))
    return elements


def _structure(rng: random.Random, elements: Elements) -> Elements:
    i, j = _any(rng, elements), _any(rng, elements)
    kind = rng.randrange(5)
    if kind == 0:
        del elements[i]
    elif kind == 1:
        elements.insert(j, elements[i])
    elif kind == 2:
        elements[i], elements[j] = elements[j], elements[i]
    elif kind == 3:
        elements[i] = replace(elements[i], tag=rng.choice((elements[j].tag, rng.getrandbits(32), 0xFFFEE0DD)))
    else:
        elements[i] = replace(elements[i], vr=rng.choice(VRS))
    return elements


def _length(rng: random.Random, elements: Elements) -> Elements:
    i = _any(rng, elements)
    size = len(elements[i].value)
    said = rng.choice((0, 1, size + 1, size + 2, max(0, size - 1), 0xFFFF, 0x7FFFFFFF, UNDEFINED - 1, UNDEFINED))
    elements[i] = replace(elements[i], said=said)
    return elements


def _charset(rng: random.Random, elements: Elements) -> Elements:
    return _with(elements, Element(0x00080005, "CS", rng.choice(CHARSETS)))


def _inside(rng: random.Random, elements: Elements) -> Elements:
    """Change something within an item, or make items where there are none."""
    places = [i for i, e in enumerate(elements) if not isinstance(e.value, bytes) and e.value]
    if not places:
        return _with(elements, Element(0x00081140, "SQ", (tuple(elements[:3]), ())))
    i = rng.choice(places)
    items = [list(item) for item in elements[i].value if not isinstance(item, int)]
    k = rng.randrange(len(items))
    items[k] = mutated(rng, items[k]) if items[k] else [Element(0x00081155, "UI", rng.choice(HOSTILE))]
    elements[i] = replace(elements[i], value=tuple(tuple(item) for item in items))
    return elements


def _paths(rng: random.Random, elements: Elements) -> Elements:
    return _with(elements, Element(rng.choice(FILES), "CS", rng.choice((b"/etc/passwd", b"..\\..\\etc\\passwd"))))


def _pixels(rng: random.Random, elements: Elements) -> Elements:
    places = [i for i, e in enumerate(elements) if e.tag == PIXELS]
    if not places or not isinstance(elements[places[0]].value, bytes):
        return elements
    value, kind = elements[places[0]].value, rng.randrange(5)
    assert isinstance(value, bytes)
    if kind == 0:
        value = value[: rng.randrange(len(value) + 1)]
    elif kind == 1:
        value += rng.randbytes(rng.randrange(1, 3000))
    elif kind == 2:
        value = struct.pack("<HHL", 0xFFFE, 0xE000, rng.choice((0, 4, 0xFFFFFF))) + value
    elif kind == 3:
        value = havoc(rng, value)
    else:  # RLE: segments that begin anywhere, and runs
        head = struct.pack("<16L", rng.choice((0, 2, 15, 99)), *(rng.choice((64, 70, 0, 1 << 31)) for _ in range(15)))
        value = head + bytes((129, 0)) * rng.randrange(2000)
    elements[places[0]] = replace(elements[places[0]], value=value)
    return elements


MUTATIONS: Sequence[Callable[[random.Random, Elements], Elements]] = (
    *(_text, _text, _identity, _geometry, _geometry, _shape, _structure, _length, _charset, _inside, _paths, _pixels),
)


def mutated(rng: random.Random, elements: Elements) -> Elements:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        elements = rng.choice(MUTATIONS)(rng, list(elements)) if elements else elements
    return elements


def havoc(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 4, 16))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 0xFF, rng.randrange(256)))
    if changed and rng.random() < 0.3:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def hostile_dataset(rng: random.Random, elements: Elements, syntax: UID) -> bytes:
    """Make one dataset's bytes in a transfer syntax, changed as an element list, as bytes, or both."""
    content = encode(mutated(rng, elements) if rng.random() < 0.85 else elements, syntax)
    if rng.random() < 0.15:
        content = havoc(rng, content)
    if rng.random() < 0.03:
        content += nested(rng.choice((1, 30, 300, 3000, 20000)), syntax, rng.random() < 0.5)
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        if rng.random() < 0.02:
            content += bytes(80 << 20) if rng.random() < 0.1 else bytes(1 << 20)
        content = packer.compress(content) + packer.flush()
        if rng.random() < 0.3:
            content = havoc(rng, content)
    return content
