"""Upper-layer PDUs that may lie (DICOM PS3.8 9.3): made by hand, changed as items, sent in any order."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydicom.uid import CTImageStorage

from tests.fuzz.datasets import HOSTILE, havoc

VERIFICATION, IMPLICIT = b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"
EXPLICIT, BIG, DEFLATED = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
CT = str(CTImageStorage).encode()
SYNTAXES = {1: IMPLICIT, 3: EXPLICIT, 5: BIG, 7: DEFLATED}
ECHO_CONTEXT = 9
RQ, AC, RJ, DATA, RELEASE, RELEASED, ABORT = 1, 2, 3, 4, 5, 6, 7
LENGTHS = (0, 1, 2, 3, 0x7F, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Item:
    """An item of an association request; ``head`` stands before its items, ``said`` is the length that it claims."""

    kind: int
    value: bytes | tuple[Item, ...] = b""
    head: bytes = b""
    said: int | None = None

    def encode(self) -> bytes:
        value = self.value if isinstance(self.value, bytes) else b"".join(i.encode() for i in self.value)
        content = self.head + value
        length = len(content) if self.said is None else self.said
        return struct.pack(">BBH", self.kind, 0, min(length, 0xFFFF)) + content


def pdu(kind: int, content: bytes, said: int | None = None) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content) if said is None else said) + content


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Read a PDU; returns its type and what it holds. Raises ConnectionError where the other side closed."""
    kind, _, length = struct.unpack(">BBL", _read(connection, 6))
    return kind, _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        got = connection.recv(count - len(content))
        if not got:
            raise ConnectionError("closed")
        content += got
    return content


def context(number: int, abstract: bytes, *syntaxes: bytes) -> Item:
    items = (Item(0x30, abstract), *(Item(0x40, syntax) for syntax in syntaxes))
    return Item(0x20, items, bytes((number, 0, 0, 0)))


def user_items() -> tuple[Item, ...]:
    return Item(0x51, struct.pack(">L", 16384)), Item(0x52, b"1.2.3.4"), Item(0x55, b"FUZZ")


def request_items() -> tuple[Item, ...]:
    contexts = [context(number, CT, syntax) for number, syntax in SYNTAXES.items()]
    contexts.append(context(ECHO_CONTEXT, VERIFICATION, IMPLICIT))
    return Item(0x10, b"1.2.840.10008.3.1.1.1"), *contexts, Item(0x50, user_items())


def request(items: Sequence[Item], called: bytes = b"CONTOURD", calling: bytes = b"FUZZ", kind: int = RQ) -> bytes:
    head = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16)[:16], calling.ljust(16)[:16])
    return pdu(kind, head + b"".join(item.encode() for item in items))


def p_data(*parts: tuple[int, int, bytes]) -> bytes:
    """Pack (context, control header, content) into one P-DATA-TF."""
    return pdu(DATA, b"".join(struct.pack(">LBB", len(c) + 2, number, flags) + c for number, flags, c in parts))


def command(fields: dict[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHL", 0, element, len(v)) + v for element, v in sorted(fields.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def echo_fields() -> dict[int, bytes]:
    return {0x0002: _even(VERIFICATION), 0x0100: b"\x30\0", 0x0110: b"\x07\0", 0x0800: b"\x01\x01"}


def store_fields(uid: bytes, message: int = 1) -> dict[int, bytes]:
    number = struct.pack("<H", message & 0xFFFF)
    fields = {0x0002: _even(CT), 0x0100: b"\x01\0", 0x0110: number, 0x0700: b"\0\0", 0x0800: b"\0\0"}
    return {**fields, 0x1000: _even(uid)}


def store(number: int, uid: bytes, dataset: bytes, message: int = 1, piece: int = 16000) -> bytes:
    parts = [dataset[i : i + piece] for i in range(0, len(dataset), piece)] or [b""]
    sent = [p_data((number, 3, command(store_fields(uid, message))))]
    sent += [p_data((number, 2 if k == len(parts) - 1 else 0, part)) for k, part in enumerate(parts)]
    return b"".join(sent)


ECHO = p_data((ECHO_CONTEXT, 3, command(echo_fields())))
RELEASE_RQ = pdu(RELEASE, bytes(4))


def change_item(rng: random.Random, item: Item) -> Item:
    kind = rng.randrange(5)
    if kind == 0:
        return replace(item, said=rng.choice((0, 1, 0xFFFF, rng.randrange(300))))
    if kind == 1:
        return replace(item, kind=rng.choice((0x10, 0x20, 0x21, 0x30, 0x40, *range(0x50, 0x5A), rng.randrange(256))))
    if kind == 2:
        return replace(item, head=rng.randbytes(len(item.head)))
    if isinstance(item.value, bytes):
        return replace(item, value=rng.choice((*HOSTILE, rng.randbytes(rng.randrange(9)))))
    items = list(item.value)
    for _ in range(rng.choice((1, 3))):
        k = rng.randrange(len(items))
        items[k : k + 1] = rng.choice(([], [items[k]] * 2, [change_item(rng, items[k])]))
        if not items:
            break
    return replace(item, value=tuple(items))


def rare_user_item(rng: random.Random) -> Item:
    """An item of the negotiation that a scanner rarely sends, well-formed or not."""
    uid, rest = struct.pack(">H", 17) + VERIFICATION, rng.randbytes(rng.randrange(8))
    return rng.choice(
        (
            Item(0x53, rng.randbytes(rng.choice((0, 3, 4, 4)))),
            Item(0x54, uid + rest),
            Item(0x56, uid + rest),
            Item(0x57, uid + rest),
            Item(0x58, bytes((rng.randrange(7), 1)) + struct.pack(">H", rng.choice((3, 0xFFFF))) + b"abc" + rest),
            Item(0x51, rng.choice((b"\0\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff", b"\0\0\0\7", b""))),
            Item(rng.randrange(256), rest),
        )
    )


def hostile_request(rng: random.Random) -> bytes:
    items = list(request_items())
    kind = rng.randrange(6)
    if kind == 0:
        count = rng.choice((128, 129, 1000, 5000))
        contexts = [context(2 * n + 1 & 0xFF, rng.choice((CT, VERIFICATION, b"1.2")), EXPLICIT) for n in range(count)]
        items[1:-1] = contexts
    elif kind == 1:
        count = rng.choice((1, 2, 50, 2000))
        items[-1] = Item(0x50, (*user_items(), *(rare_user_item(rng) for _ in range(count))))
    elif kind == 2:
        items = [change_item(rng, item) if rng.random() < 0.3 else item for item in items]
    elif kind == 3:
        rng.shuffle(items)
        items = items[: rng.randrange(len(items) + 1)] + items[: rng.randrange(3)]
    titles = [rng.choice((b"FUZZ", b"", bytes(16), b"\xff" * 16, b"a\nERROR x", b"\x1b[2J", b"A\\B")) for _ in range(2)]
    if kind == 4:
        return request(items, titles[0], titles[1])
    whole = request(items, calling=titles[1] if rng.random() < 0.2 else b"FUZZ")
    if kind == 5:
        return havoc(rng, whole)
    return whole[:2] + struct.pack(">L", rng.choice(LENGTHS)) + whole[6:] if rng.random() < 0.1 else whole


def hostile_command(rng: random.Random, dataset: bytes) -> bytes:
    """Messages of an association that stands: commands that lie, fragments that do not fit."""
    fields = rng.choice((echo_fields(), store_fields(rng.choice(HOSTILE))))
    for _ in range(rng.choice((0, 1, 1, 3))):
        element = rng.choice((*fields, 0x0120, 0x0900, 0x0902, 0x1000, 0x1005, 0x1008, 0x1031, rng.randrange(0x10000)))
        value = rng.choice((b"", b"\x01\0", b"\x30\x80", b"\x00\x01", b"\xff\x0f", *HOSTILE[:12], rng.randbytes(4)))
        fields[element] = rng.choice(
            (value, struct.pack("<H", rng.choice((1, 0x20, 0x21, 0x30, 0x100, 0x110, 0x8001))))
        )
    content = command(fields)
    if rng.random() < 0.2:
        content = havoc(rng, content)
    number = rng.choice((1, 3, 5, 7, ECHO_CONTEXT, 0, 2, 255))
    flags = [rng.choice((0, 1, 2, 3, 3, rng.randrange(256))) for _ in range(4)]
    parts = [(number, flags[0], content), (rng.choice((number, 3)), flags[1], dataset[: rng.choice((0, 10, 5000))])]
    parts += [(number, flags[2], b"")] * rng.choice((0, 1, 50, 3000))
    sent = p_data(*parts) if rng.random() < 0.5 else b"".join(p_data(part) for part in parts[:60])
    return havoc(rng, sent) if rng.random() < 0.3 else sent


def out_of_order(rng: random.Random, dataset: bytes) -> bytes:
    whole: Sequence[Callable[[], bytes]] = (
        lambda: request(request_items()),
        lambda: request(request_items(), kind=AC),
        lambda: pdu(RJ, bytes((0, 1, 1, 1))),
        lambda: ECHO,
        lambda: store(3, b"1.2.3", dataset),
        lambda: RELEASE_RQ,
        lambda: pdu(RELEASED, bytes(4)),
        lambda: pdu(ABORT, bytes((0, 0, rng.randrange(4), rng.randrange(9)))),
        lambda: pdu(rng.randrange(256), rng.randbytes(rng.randrange(20)), rng.choice((None, *LENGTHS))),
        lambda: pdu(DATA, b"", rng.choice((0, 1, 5))),
    )
    return b"".join(rng.choice(whole)() for _ in range(rng.randrange(1, 7)))


def hostile_play(rng: random.Random, dataset: bytes) -> bytes:
    """All that one connection sends."""
    kind = rng.randrange(3)
    if kind == 0:
        return hostile_request(rng)
    if kind == 1:
        sent = [hostile_command(rng, dataset) for _ in range(rng.choice((1, 1, 2, 5)))]
        return request(request_items()) + b"".join(sent) + (RELEASE_RQ if rng.random() < 0.3 else b"")
    return out_of_order(rng, dataset)
