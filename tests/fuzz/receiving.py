"""The node's SCP against hostile peers over loopback: connections that break every rule, datasets in valid C-STOREs."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydicom.uid import UID

from contourd.dicom.network.events import ReceivedInstance, RefusedInstance
from contourd.dicom.network.scp import StorageSCP
from contourd.dicom.reading.instance import read_instance
from contourd.errors import ContourdError
from contourd.settings import NodeSettings
from contourd.spool.folder import Spool
from tests.fuzz.bounds import FILES, FOR_EVER, LONGEST_S, Figures, Memory
from tests.fuzz.datasets import hostile_dataset
from tests.fuzz.elements import Element, read_elements
from tests.fuzz.pdus import DATA, ECHO, RELEASE_RQ, SYNTAXES, hostile_play, read_pdu, request, request_items, store
from tests.fuzz.reading import small_series
from tests.peers import LOOPBACK, free_port

STORES_OF_ONE = 100
CHECK_EVERY, AT_A_TIME = 200, 4
Play = Callable[[int], bool]
UID_TAG = 0x00080018
SUCCESS = 0


@dataclass
class Ledger:
    """A sink that reads back whatever it is told is stored, and counts associations."""

    root: Path
    opened: int = 0
    closed: int = 0
    stored: int = 0
    unreadable: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def association_opened(self, _association_id: int, calling_ae: str, _peer: str) -> None:
        with self.changed:
            self.opened += 1
            if not calling_ae.isprintable():
                self.unreadable.append(f"calling AE {calling_ae!r}")

    def instance_stored(self, received: ReceivedInstance) -> None:
        path = self.root / received.path
        try:
            if read_instance(path).sop_instance_uid != received.sop_instance_uid:
                self.unreadable.append(f"{received.sop_instance_uid} reads back as another")
        except ContourdError as error:
            self.unreadable.append(str(error))
        path.unlink()
        self.stored += 1

    def instance_refused(self, refused: RefusedInstance) -> None:
        for uid in (refused.series_instance_uid, refused.sop_instance_uid):
            if len(uid) > 64 or (uid and not uid.replace(".", "").isdecimal()):
                self.unreadable.append(f"refused {uid!r}")

    def association_closed(self, _association_id: int, _aborted: bool) -> None:
        with self.changed:
            self.closed += 1
            self.changed.notify_all()

    def all_closed(self) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.opened == self.closed, LONGEST_S)


class Peer:
    """A socket that speaks PDUs, as they come."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=LONGEST_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def associate(self) -> None:
        self.socket.sendall(request(request_items()))
        kind, _ = self.answer()
        if kind != 2:
            raise ConnectionError(f"PDU {kind} instead of an acceptance")

    def answer(self) -> tuple[int, bytes]:
        return read_pdu(self.socket)

    def status(self) -> int | None:
        """Return the status of the next answer; None where the association ended."""
        kind, content = self.answer()
        if kind != DATA:
            return None
        at = content.find(struct.pack("<HHL", 0, 0x0900, 2))
        return int.from_bytes(content[at + 8 : at + 10], "little")

    def until_closed(self) -> None:
        """Read what comes until the node closes; raises TimeoutError where it does not."""
        with suppress(ConnectionError, BrokenPipeError):
            while self.socket.recv(1 << 16):
                pass

    def close(self) -> None:
        self.socket.close()


class Node:
    """An SCP on loopback with its spool and its ledger."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.ledger = Ledger(self.spool.root)
        settings = NodeSettings(host=LOOPBACK, port=free_port(), network_timeout_s=60, request_timeout_s=60)
        self.scp = StorageSCP(settings, self.spool, self.ledger)
        self.scp.start()

    @property
    def port(self) -> int:
        return self.scp.port

    def answers(self) -> bool:
        peer = Peer(self.port)
        try:
            peer.associate()
            peer.socket.sendall(ECHO)
            answered = peer.status() == SUCCESS
            peer.socket.sendall(RELEASE_RQ)
            peer.until_closed()
            return answered
        except OSError:
            return False
        finally:
            peer.close()


def run_connections(folder: Path, seed: int, numbers: range, seconds: float = FOR_EVER) -> Figures:
    """Play so many hostile connections against one node."""
    node, elements = Node(folder), seed_elements(folder)

    def play(number: int) -> bool:
        rng = random.Random(f"connection {seed} {number}")
        dataset = hostile_dataset(rng, elements, UID(SYNTAXES[3].decode()))[:100_000]
        peer = Peer(node.port)
        try:
            with suppress(ConnectionError, OSError):
                peer.socket.sendall(hostile_play(rng, dataset))
                peer.socket.shutdown(socket.SHUT_WR)
            peer.until_closed()
        finally:
            peer.close()
        return False

    return _campaign("PDUs", node, numbers, play, seconds)


def run_stores(folder: Path, seed: int, numbers: range, seconds: float = FOR_EVER) -> Figures:
    """Send so many hostile datasets in valid C-STOREs, a hundred to an association."""
    node, elements = Node(folder), seed_elements(folder)
    peers: list[Peer] = []
    successes = 0

    def send(number: int) -> bool:
        nonlocal successes
        rng = random.Random(f"store {seed} {number}")
        context = rng.choice(tuple(SYNTAXES))
        syntax = UID(SYNTAXES[context].decode())
        content = hostile_dataset(rng, elements, syntax)
        uid = next(e.value for e in elements if e.tag == UID_TAG)
        assert isinstance(uid, bytes)
        if not peers:
            peers.append(Peer(node.port))
            peers[0].associate()
        peers[0].socket.sendall(store(context, uid.rstrip(b"\0"), content, number % STORES_OF_ONE))
        status = peers[0].status()
        if status is None or number % STORES_OF_ONE == STORES_OF_ONE - 1:
            peers.pop().close()
        if status is None:
            raise AssertionError("the association ended on a valid C-STORE")
        if status == 0x0110:
            raise AssertionError("status 0x0110: an exception that is not ours")
        successes += status == SUCCESS
        return status == SUCCESS

    figures = _campaign("C-STOREs", node, numbers, send, seconds, peers)
    if successes != node.ledger.stored:
        figures.failures.append(f"{successes} times Success for {node.ledger.stored} instances")
    return figures


def seed_elements(folder: Path) -> list[Element]:
    return read_elements(small_series(folder / "seed") / "CT_0005.dcm")


def _campaign(
    name: str, node: Node, numbers: range, play: Play, seconds: float, peers: list[Peer] | None = None
) -> Figures:
    """Play the inputs, some at a time where each has its own connection, and look at the node after some hundred."""
    figures, memory, before = Figures(name), None, (0, 0)
    chunks = [numbers[i : i + CHECK_EVERY] for i in range(0, len(numbers), CHECK_EVERY)]
    try:
        for chunk in chunks:
            if time.monotonic() - figures.began > seconds:
                break
            with ThreadPoolExecutor(1 if peers is not None else AT_A_TIME) as pool:
                for one in pool.map(lambda number: play_one(name, number, play), chunk):
                    add_result(figures, *one)
            while peers:
                peers.pop().close()
            _look(node, figures, chunk[-1])
            if memory is None:
                memory, before = Memory(), resources()
            memory.look()
        if memory is not None:
            figures.growth_mb, figures.peak_mb = memory.growth_mb, memory.peak_mb
        deadline = time.monotonic() + LONGEST_S
        while (
            any(now > then + 3 for now, then in zip(resources(), before, strict=True)) and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        if any(now > then + 3 for now, then in zip(resources(), before, strict=True)):
            figures.failures.append(f"threads, descriptors: {before} grew to {resources()}")
    finally:
        node.scp.stop()
    figures.seconds = time.monotonic() - figures.began
    figures.failures += [f"stray: {stray}" for stray in FILES.strays] + node.ledger.unreadable
    return figures


def resources() -> tuple[int, int]:
    return threading.active_count(), psutil.Process().num_fds()


def play_one(name: str, number: int, play: Play) -> tuple[bool, float, str]:
    began, failure, accepted = time.monotonic(), "", False
    try:
        accepted = play(number)
    except (OSError, AssertionError, struct.error) as error:
        failure = f"{name} {number}: {type(error).__name__} {error}"
    return accepted, time.monotonic() - began, failure


def add_result(figures: Figures, accepted: bool, seconds: float, failure: str) -> None:
    figures.inputs += 1
    figures.accepted += accepted
    figures.refused += not accepted
    figures.slowest_s = max(figures.slowest_s, seconds)
    if failure:
        figures.failures.append(failure)


def _look(node: Node, figures: Figures, number: int) -> None:
    if not node.answers():
        figures.failures.append(f"{figures.name} {number}: no answer to C-ECHO afterwards")
    if not node.ledger.all_closed():
        figures.failures.append(f"{figures.name} {number}: {node.ledger.opened - node.ledger.closed} never closed")
        node.ledger.closed = node.ledger.opened
