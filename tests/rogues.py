"""Destinations that break the rules, on loopback: each plays one connection after another, byte by byte by hand."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pydicom.uid import RTStructureSetStorage

from contourd.settings import Destination
from tests.fuzz.pdus import AC, DATA, IMPLICIT, RELEASE, RELEASED, Item, command, p_data, pdu, read_pdu, request
from tests.peers import LOOPBACK

RTSTRUCT = str(RTStructureSetStorage).encode()
# PS3.7 E.1: command fields of requests; a response has the highest bit too.
C_STORE, C_FIND, C_ECHO, N_EVENT, N_ACTION, RESPONSE = 0x0001, 0x0020, 0x0030, 0x0100, 0x0130, 0x8000
NO_DATA = b"\x01\x01"
CHUNK = bytes(1 << 16)
STEP_S = 0.02
LAST, COMMAND = 2, 1


@dataclass
class Asked:
    """A request as it came: the context and the elements of its command set, by their numbers."""

    context: int
    elements: dict[int, bytes]

    @property
    def message(self) -> int:
        return int.from_bytes(self.elements[0x0110], "little")

    def answer(self, **changes: bytes | int | None) -> bytes:
        """Build the answer; ``changes``: context, field, message, sop_class, instance, status; None leaves one out."""
        elements, field_of = self.elements, int.from_bytes(self.elements[0x0100], "little")
        values: dict[str, bytes | int | None] = {
            "context": self.context,
            "field": field_of | RESPONSE,
            "message": self.message,
            "sop_class": elements.get(0x0002, elements.get(0x0003)),
            "instance": elements.get(0x1000, elements.get(0x1001)),
            "status": 0,
            **changes,
        }
        packed = {0x0800: NO_DATA}
        numbers = {"sop_class": 0x0002, "field": 0x0100, "message": 0x0120, "status": 0x0900, "instance": 0x1000}
        for name, element in numbers.items():
            value = values[name]
            if value is not None:
                packed[element] = value if isinstance(value, bytes) else struct.pack("<H", value)
        context = values["context"]
        assert isinstance(context, int)
        return p_data((context, COMMAND | LAST, command(packed)))


class Line:
    """One connection to a rogue."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(30)

    def pdu(self) -> tuple[int, bytes]:
        return read_pdu(self.socket)

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def drip(self, content: bytes, step_s: float = STEP_S) -> None:
        """Send a byte at a time, until the other side closes or all is sent."""
        for k in range(len(content)):
            self.socket.sendall(content[k : k + 1])
            time.sleep(step_s)

    def flood(self, content: bytes = CHUNK) -> None:
        """Send the same until the other side closes."""
        while True:
            self.socket.sendall(content)

    def accept(self, largest: int | None = 16384, syntax: bytes = IMPLICIT) -> None:
        """Take the request for an association, and accept all contexts that it proposes."""
        _, content = self.pdu()
        self.send(acceptance(context_ids(content), largest, syntax))

    def asked(self) -> Asked:
        """Read a whole message; a release is answered, and is the end."""
        sent, dataset_follows, context = b"", True, 0
        while True:
            kind, content = self.pdu()
            if kind == RELEASE:
                self.send(pdu(RELEASED, bytes(4)))
                raise ConnectionError("released")
            if kind != DATA:
                raise ConnectionError(f"PDU {kind}")
            at = 0
            while at < len(content):
                length, context, flags = struct.unpack_from(">LBB", content, at)
                part = content[at + 6 : at + 4 + length]
                at += 4 + length
                if flags & COMMAND:
                    sent += part
                    if flags & LAST:
                        dataset_follows = elements_of(sent)[0x0800] != NO_DATA
                if flags & LAST and (not flags & COMMAND or not dataset_follows):
                    return Asked(context, elements_of(sent))


def elements_of(content: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(content):
        group, element, length = struct.unpack_from("<HHL", content, at)
        if not group:  # of another, it is none of a command (PS3.7 6.3.1)
            found[element] = content[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def context_ids(content: bytes) -> list[int]:
    """Read the proposed presentation contexts of an A-ASSOCIATE-RQ (PS3.8 9.3.2), without its header."""
    found, at = [], 68
    while at + 4 <= len(content):
        kind, _, length = struct.unpack_from(">BBH", content, at)
        if kind == 0x20:
            found.append(content[at + 4])
        at += 4 + length
    return found


def acceptance(contexts: list[int], largest: int | None = 16384, syntax: bytes = IMPLICIT) -> bytes:
    """Accept contexts: the first in a syntax, the others not."""
    items = [
        Item(0x21, (Item(0x40, syntax),), bytes((number, 0, 0 if number == contexts[0] else 4, 0)))
        for number in contexts
    ]
    user = [Item(0x52, b"1.2.3.4")]
    if largest is not None:
        user.insert(0, Item(0x51, struct.pack(">L", largest)))
    return request([Item(0x10, b"1.2.840.10008.3.1.1.1"), *items, Item(0x50, tuple(user))], kind=AC)


Play = Callable[[Line], None]


@dataclass
class Rogue:
    """A destination that plays; ``calls`` counts its connections."""

    play: Play
    port: int = 0
    calls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, connection: socket.socket) -> None:
        with self.lock:
            self.calls += 1
        with connection, suppress(OSError):
            self.play(Line(connection))

    def destination(self, **more: object) -> Destination:
        values = {"connect_timeout_s": 2.0, "response_timeout_s": 2.0, **more}
        return Destination.model_validate(
            {"name": "rogue", "ae_title": "ROGUE", "host": LOOPBACK, "port": self.port, **values}
        )


@contextmanager
def rogue(play: Play) -> Iterator[Rogue]:
    """Serve each connection in a thread of its own until the block ends."""
    listener, stopping = socket.create_server((LOOPBACK, 0)), threading.Event()
    listener.settimeout(0.1)
    found, threads = Rogue(play, listener.getsockname()[1]), list[threading.Thread]()

    def listen() -> None:
        while not stopping.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                threads[:] = [thread for thread in threads if thread.is_alive()]  # thousands come and go
                threads.append(threading.Thread(target=found.serve, args=(connection,), daemon=True))
                threads[-1].start()

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    try:
        yield found
    finally:
        stopping.set()
        listening.join()
        listener.close()
        for thread in threads:
            thread.join(35)


class Moody:
    """A destination that breaks the rules three times in four, so that all reaches it in the end."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def play(self, line: Line) -> None:
        with self._lock:
            self.calls += 1
            mood = self.calls % 4
        line.accept()
        asked = line.asked()
        if mood == 1:
            line.send(pdu(DATA, b"", 0x7FFFFFFF))
            line.flood()
        elif mood == 2:
            line.flood(p_data((asked.context, COMMAND, CHUNK[:16000])))
        line.send(asked.answer(**({"message": asked.message + 1} if mood == 3 else {})))
        line.asked()
