"""Those whom contourd calls, as attackers: destinations, webhooks and mail servers that answer what they like."""

from __future__ import annotations

import queue
import random
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom

from contourd.dicom.network.commitment_messages import CommitmentRequest, InstanceReference
from contourd.dicom.network.commitment_scu import CommitmentSCU
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.rtstruct.writer import save_structure_set
from contourd.errors import NoticeNotSent
from contourd.observe.notices import MailChannel, NotificationChannel, WebhookChannel, notice_of_test
from contourd.settings import Destination
from contourd.settings.alerts import MailSettings
from tests.fuzz.bounds import FILES, FOR_EVER, Figures, Memory
from tests.fuzz.datasets import havoc
from tests.fuzz.pdus import (
    AC,
    LENGTHS,
    RELEASED,
    Item,
    change_item,
    command,
    out_of_order,
    p_data,
    pdu,
    rare_user_item,
    request,
)
from tests.fuzz.receiving import add_result, play_one, resources
from tests.peers import LOOPBACK
from tests.phantom import read_series, structure_set, write_series
from tests.rogues import COMMAND, LAST, NO_DATA, RTSTRUCT, Asked, Line, acceptance, context_ids, elements_of, rogue
from tests.sinks import raw_sink

AT_A_TIME, CHECK_EVERY = 4, 200
# What a peer sends is sent at once, so that these are reached only where it waits for more.
CONNECT_S, ANSWER_S = 5.0, 5.0
ATTACHED_S = 20.0
# PS3.8 9.3.2: the calling AE title in an A-ASSOCIATE-RQ, without its header.
CALLING = slice(20, 36)
TAKEN_STATUSES = (0x0000, 0xB000, 0xB006, 0xB007, 0x0111)
VALUES = (b"", b"\0\0", b"\1\0", b"\xff\xff", b"1.2.3\0", RTSTRUCT, b"\xff" * 70, NO_DATA)


@dataclass
class Played:
    """What one destination sent after its acceptance, and what it had been asked."""

    asked: Asked | None = None
    sent: bytes = b""

    def holds_the_answer(self, uid: bytes) -> bool:
        """Judge by the bytes whether the answer to the store is among them: nothing else may count as one."""
        return self.asked is not None and any(
            _is_answer(self.asked, number, elements, uid) for number, elements in _commands(self.sent)
        )


def _is_answer(asked: Asked, number: int, elements: dict[int, bytes], uid: bytes) -> bool:
    named = elements.get(0x0002, b""), elements.get(0x1000, b"")
    return (
        number == asked.context
        and elements.get(0x0100) == b"\x01\x80"
        and elements.get(0x0120) == asked.elements[0x0110]
        and int.from_bytes(elements.get(0x0900, b"\xff\xff"), "little") in TAKEN_STATUSES
        and named[0].rstrip(b"\0 ") in (b"", RTSTRUCT)
        and named[1].rstrip(b"\0 ") in (b"", uid)
    )


def _commands(sent: bytes) -> list[tuple[int, dict[int, bytes]]]:
    """Find the whole command sets among PDUs, with their contexts, as far as they can be read."""
    found, at, gathered = list[tuple[int, dict[int, bytes]]](), 0, b""
    with suppress(struct.error, IndexError):
        while at < len(sent):
            kind, _, length = struct.unpack_from(">BBL", sent, at)
            content, at = sent[at + 6 : at + 6 + length], at + 6 + length
            k = 0
            while kind == 4 and k < len(content):
                size, number, flags = struct.unpack_from(">LBB", content, k)
                if flags & COMMAND:
                    gathered += content[k + 6 : k + 4 + size]
                    if flags & LAST:
                        with suppress(struct.error):
                            found.append((number, elements_of(gathered)))
                        gathered = b""
                k += 4 + size
    return found


def hostile_acceptance(rng: random.Random, contexts: list[int]) -> bytes:
    """Accept as a destination should, or as none should."""
    kind = rng.randrange(6)
    if kind == 0:
        return acceptance(contexts, rng.choice((0, 1, 6, 7, 50, 127, 128, 16384, 0xFFFFFFFF, None)))
    if kind == 1:
        return acceptance(contexts, syntax=rng.choice((b"", b"1.2", b"1.2.840.10008.1.2.2", RTSTRUCT, b"\xff" * 65)))
    results = [
        Item(0x21, (Item(0x40, b"1.2.840.10008.1.2"),), bytes((number, 0, rng.choice((0, 0, 1, 4, 255)), 0)))
        for number in (*contexts, rng.randrange(256))
    ]
    user = (Item(0x51, struct.pack(">L", 16384)), *(rare_user_item(rng) for _ in range(rng.choice((0, 1, 50)))))
    items = [Item(0x10, b"1.2.840.10008.3.1.1.1"), *results, Item(0x50, user)]
    if kind == 2:
        items = [change_item(rng, item) if rng.random() < 0.4 else item for item in items]
    whole = request(items, kind=AC)
    if kind == 3:
        return havoc(rng, whole)
    if kind == 4:
        return whole[:2] + struct.pack(">L", rng.choice(LENGTHS)) + whole[6:]
    return out_of_order(rng, b"\0" * 50)


def hostile_answer(rng: random.Random, asked: Asked) -> bytes:
    """Answer a request rightly, nearly, or not at all."""
    kind = rng.randrange(8)
    if kind == 0:
        return asked.answer()
    if kind == 1:
        names = ("message", "sop_class", "instance", "status", "field")
        return asked.answer(**{name: rng.choice((None, *VALUES)) for name in rng.sample(names, rng.choice((1, 1, 2)))})
    if kind == 2:
        return asked.answer(context=rng.randrange(256), status=rng.choice((0, 0xA700, 0xC000, 0x0111, 0xB000)))
    if kind == 3:
        return havoc(rng, asked.answer())
    if kind == 4:
        fields = {
            rng.choice((0x0002, 0x0100, 0x0110, 0x0120, 0x0800, 0x0900, 0x1000)): rng.choice(VALUES) for _ in "abcd"
        }
        return p_data((asked.context, rng.choice((0, 1, 2, 3, 255)), command(fields)))
    if kind == 5:
        whole = asked.answer()
        fragments = [(asked.context, COMMAND, whole[12:20]), (asked.context, rng.choice((1, 3)), whole[20:])]
        return p_data(*fragments) if rng.random() < 0.5 else b"".join(p_data(one) for one in fragments)
    if kind == 6:
        return p_data(*[(asked.context, rng.choice((0, 1)), b"")] * rng.choice((1, 50, 3000))) + asked.answer()
    return out_of_order(rng, b"\0" * 50)


def run_destinations(folder: Path, seed: int, numbers: range, seconds: float = FOR_EVER) -> Figures:
    """Deliver to, echo or ask for the commitment of so many hostile destinations."""
    path = folder / "rt.dcm"
    save_structure_set(structure_set(read_series(write_series(folder / "ct"))), path)
    uid = pydicom.dcmread(path).SOPInstanceUID.encode()
    plays: dict[int, Played] = {}

    def serve(line: Line) -> None:
        _, content = line.pdu()
        number = int(content[CALLING].decode().strip().removeprefix("F"))
        with suppress(OSError):
            _play(line, content, random.Random(f"destination {seed} {number}"), plays[number])

    def deliver(number: int) -> bool:
        played = plays[number] = Played()
        which = random.Random(f"asked {seed} {number}").random()
        outcome, asked = _ask(
            which, path, peer.destination(connect_timeout_s=CONNECT_S, response_timeout_s=ANSWER_S), number
        )
        del plays[number]
        if asked == "store" and outcome.kind is OutcomeKind.ACCEPTED and not played.holds_the_answer(uid):
            raise AssertionError(f"called delivered without an answer: {outcome}")
        if not outcome.reason.isprintable():
            raise AssertionError(f"not printable: {outcome.reason!r}")
        return outcome.kind is OutcomeKind.ACCEPTED

    with rogue(serve) as peer:
        return play_all("answers", numbers, deliver, seconds)


def _ask(which: float, path: Path, destination: Destination, number: int) -> tuple[Outcome, str]:
    title = f"F{number}"
    if which < 0.7:
        return StorageSCU(title).deliver(path, destination), "store"
    if which < 0.85:
        return StorageSCU(title).echo(destination), "echo"
    committer = CommitmentSCU(title, _Nobody(), same_association_s=0.05)
    return committer.ask(
        CommitmentRequest("1.2.3", (InstanceReference(RTSTRUCT.decode(), "1.2.4"),)), destination
    ), "commitment"


class _Nobody:
    def reported(self, calling_ae: str, report: object) -> None:
        pass


def _play(line: Line, content: bytes, rng: random.Random, played: Played) -> None:
    honest = rng.random() < 0.7
    contexts = context_ids(content)
    line.send(acceptance(contexts) if honest else hostile_acceptance(rng, contexts))
    if not honest and rng.random() < 0.5:
        return
    while True:
        played.asked = line.asked()
        sent = hostile_answer(rng, played.asked)
        played.sent += sent
        line.send(sent)
        if rng.random() < 0.5:
            with suppress(TimeoutError):
                line.socket.settimeout(0.2)
                line.pdu()
                line.send(pdu(RELEASED, bytes(4)))
            return


HTTP_PARTS = (
    *(
        b"HTTP/1.1 ",
        b"HTTP/9.9 ",
        b"HTTP/",
        b"200 OK\r\n",
        b"100 Continue\r\n",
        b"302 Found\r\n",
        b"204\r\n",
        b"-1 x\r\n",
    ),
    *(b"\r\n", b"\r\n\r\n", b"Location: http://[\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"x" * 9000, b"\0" * 300, b"\xff\xfe", b": \r\n", b"999 x\r\n", b"2 0\r\n"),
)
SMTP_PARTS = (
    *(
        b"220 sink\r\n",
        b"220-sink\r\n",
        b"250 ok\r\n",
        b"250-SIZE x\r\n",
        b"250 AUTH PLAIN LOGIN X\r\n",
        b"354 go on\r\n",
    ),
    *(
        b"250-STARTTLS\r\n",
        b"421 bye\r\n",
        b"535 no\r\n",
        b"\r\n",
        b"x" * 9000,
        b"2\r\n",
        b"\xff\xfe\r\n",
        b"999 x\r\n",
    ),
    *(b"250 " * 300 + b"\r\n", b"-1 x\r\n", b"250\r\n"),
)


def run_notices(folder: Path, seed: int, numbers: range, seconds: float = FOR_EVER) -> Figures:  # noqa: ARG001
    """Send a notice to so many hostile webhooks and mail servers."""

    slots: queue.Queue[Slot] = queue.Queue()

    def send(number: int) -> bool:
        rng = random.Random(f"notice {seed} {number}")
        slot = slots.get()
        try:
            return _notify(slot, rng)
        finally:
            slots.put(slot)

    with ExitStack() as sinks:
        for _ in range(AT_A_TIME):
            slot = Slot()
            slot.port = sinks.enter_context(raw_sink(slot.play))
            slots.put(slot)
        return play_all("notices", numbers, send, seconds)


def _notify(slot: Slot, rng: random.Random) -> bool:
    """Have a server say something hostile, and send a notice to it; says whether it was taken."""
    slot.by_mail = rng.random() < 0.5
    parts = SMTP_PARTS if slot.by_mail else HTTP_PARTS
    pieces = [rng.choice(parts) for _ in range(rng.choice((1, 2, 4, 12, 400)))]
    if rng.random() < 0.5:  # so that it goes on beyond the first line
        pieces[0] = parts[0]
    content = b"".join(pieces)
    slot.content = havoc(rng, content) if rng.random() < 0.3 and content else content
    security = rng.choice(("none", "none", "starttls"))
    try:
        slot.channel(security).send(notice_of_test("NODE"))
    except NoticeNotSent as error:
        if not str(error).isprintable():
            raise AssertionError(f"not printable: {error!r}") from error
        return False
    return True


@dataclass
class Slot:
    """What one thread's server is to say next."""

    port: int = 0
    by_mail: bool = False
    content: bytes = b""

    def play(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_S)
        if not self.by_mail:
            connection.recv(65536)
        connection.sendall(self.content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # a close with bytes unread would take away what was sent
            pass

    def channel(self, security: str) -> NotificationChannel:
        if not self.by_mail:
            return WebhookChannel(f"http://{LOOPBACK}:{self.port}/x", ANSWER_S)
        settings = {"host": LOOPBACK, "port": self.port, "recipients": ["a@b.example"], "timeout_s": ANSWER_S}
        return MailChannel(MailSettings.model_validate({**settings, "security": security}))


def play_all(name: str, numbers: range, play: Callable[[int], bool], seconds: float) -> Figures:
    """Play the inputs, some at a time, and look at memory, threads and descriptors after some hundred."""

    def one(number: int) -> bool:
        began = time.monotonic()
        try:
            return play(number)
        except (OSError, AssertionError, struct.error):
            raise
        except Exception as error:  # what a peer makes contourd raise is what is looked for
            raise AssertionError(f"raised {type(error).__name__}: {error}") from error
        finally:
            if time.monotonic() - began > ATTACHED_S:
                FILES.strays.append(f"{name} {number} took {time.monotonic() - began:.0f} s")

    figures, memory, before = Figures(name), None, (0, 0)
    for chunk in (numbers[i : i + CHECK_EVERY] for i in range(0, len(numbers), CHECK_EVERY)):
        if time.monotonic() - figures.began > seconds:
            break
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for ended in pool.map(lambda number: play_one(name, number, one), chunk):
                add_result(figures, *ended)
        if memory is None:
            memory, before = Memory(), resources()
        memory.look()
    if memory is not None:
        figures.growth_mb, figures.peak_mb = memory.growth_mb, memory.peak_mb
    deadline = time.monotonic() + 30
    while any(now > then + 3 for now, then in zip(resources(), before, strict=True)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if any(now > then + 3 for now, then in zip(resources(), before, strict=True)):
        figures.failures.append(f"threads, descriptors: {before} grew to {resources()}")
    figures.seconds = time.monotonic() - figures.began
    figures.failures += [f"stray: {stray}" for stray in FILES.strays]
    return figures
