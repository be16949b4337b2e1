"""The SCU on loopback, against receivers that answer in every way a destination can."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.rtstruct.writer import save_structure_set
from contourd.settings import Destination
from tests.peers import LOOPBACK, free_port, storescp
from tests.phantom import read_series, structure_set, write_series

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
ACCEPTED, RETRY, REFUSED = OutcomeKind.ACCEPTED, OutcomeKind.RETRY, OutcomeKind.REFUSED
UNREACHABLE = OutcomeKind.UNREACHABLE
SENDER = StorageSCU("CONTOURD")


@pytest.fixture(scope="module")
def rtstruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scu")
    path = folder / "rt.dcm"
    save_structure_set(structure_set(read_series(write_series(folder / "ct"))), path)
    return path


def destination(port: int, **more: Any) -> Destination:
    return Destination(name="pacs", ae_title="PACS", host=LOOPBACK, port=port, **more)


Answer = Callable[[Any], int | Dataset]
Start = Callable[..., Destination]


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[Any] = []

    def run(answer: Answer = lambda event: 0x0000, syntaxes: Any = ImplicitVRLittleEndian, **ae: Any) -> Destination:
        node = AE("PACS")
        for name, value in ae.items():
            setattr(node, name, value)
        node.add_supported_context(RTStructureSetStorage, syntaxes)
        node.add_supported_context(Verification)
        servers.append(node.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]))
        return destination(servers[-1].socket.getsockname()[1], response_timeout_s=5)

    yield run
    for server in servers:
        server.shutdown()
        server.ae.shutdown()
    gc.collect()


def answering(status: int, comment: str = "") -> Answer:
    def answer(_: Any) -> Dataset:
        response = Dataset()
        response.Status = status
        if comment:
            response.ErrorComment = comment
        return response

    return answer


@pytest.mark.filterwarnings("ignore:Found unknown escape sequence")
def test_a_comment_that_would_forge_a_line_is_shown_as_text(start: Start, rtstruct: Path) -> None:
    outcome = SENDER.deliver(rtstruct, start(answering(0xC000, "no\n2026 ERROR forged\x1b[2J")))
    assert outcome.reason.endswith("status 0xC000 (no\\n2026 ERROR forged\\x1b[2J)")
    assert outcome.reason.isprintable()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_the_object_arrives_as_it_was_written(start: Start, rtstruct: Path, syntax: str) -> None:
    arrived: list[Dataset] = []

    def keep(event: Any) -> int:
        arrived.append(event.dataset)
        assert event.context.transfer_syntax == syntax
        assert event.assoc.requestor.ae_title == "CONTOURD"
        return 0x0000

    outcome = SENDER.deliver(rtstruct, start(keep, syntax))
    assert (outcome.kind, outcome.status, outcome.reason) == (ACCEPTED, 0x0000, "")
    assert arrived == [pydicom.dcmread(rtstruct)]


def test_implicit_vr_is_preferred(start: Start, rtstruct: Path) -> None:
    seen: list[str] = []

    def note(event: Any) -> int:
        seen.append(event.context.transfer_syntax)
        return 0x0000

    both = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    assert SENDER.deliver(rtstruct, start(note, both)).kind is ACCEPTED
    assert seen == [ImplicitVRLittleEndian]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, ACCEPTED),
        (0xB000, ACCEPTED),
        (0xB006, ACCEPTED),
        (0xB007, ACCEPTED),
        (0x0111, ACCEPTED),
        (0xA700, RETRY),
        (0xA701, RETRY),
        (0xA7FF, RETRY),
        (0x0110, RETRY),
        (0xA900, REFUSED),
        (0xA9FF, REFUSED),
        (0xC000, REFUSED),
        (0xCFFF, REFUSED),
        (0x0122, REFUSED),
        (0x0124, REFUSED),
    ],
)
def test_statuses(start: Start, rtstruct: Path, status: int, kind: OutcomeKind) -> None:
    outcome = SENDER.deliver(rtstruct, start(answering(status)))
    assert (outcome.kind, outcome.status) == (kind, status)
    assert status == 0x0000 or f"0x{status:04X}" in outcome.reason


def test_the_destinations_own_words_are_passed_on(start: Start, rtstruct: Path) -> None:
    outcome = SENDER.deliver(rtstruct, start(answering(0xC000, "no such patient")))
    assert "no such patient" in outcome.reason
    assert "pacs (PACS at 127.0.0.1:" in outcome.reason


def test_nobody_listens(rtstruct: Path) -> None:
    outcome = SENDER.deliver(rtstruct, destination(free_port()))
    assert (outcome.kind, outcome.status) == (UNREACHABLE, None)
    assert "cannot be reached" in outcome.reason


def test_a_host_that_has_no_address(rtstruct: Path) -> None:
    nowhere = Destination(name="pacs", ae_title="PACS", host="no-such-host.invalid", port=104)
    outcome = SENDER.deliver(rtstruct, nowhere)
    assert outcome.kind is UNREACHABLE
    assert "cannot be reached" in outcome.reason


def test_a_peer_that_never_answers_the_association(rtstruct: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        outcome = SENDER.deliver(rtstruct, destination(silent.getsockname()[1], connect_timeout_s=0.5))
    assert outcome.kind is UNREACHABLE


def test_a_peer_that_never_answers_the_store(start: Start, rtstruct: Path) -> None:
    done = threading.Event()

    def wait(_: Any) -> int:
        done.wait(10)
        return 0x0000

    slow = start(wait).model_copy(update={"response_timeout_s": 0.5})
    outcome = SENDER.deliver(rtstruct, slow)
    done.set()
    assert outcome.kind is RETRY
    assert "did not answer" in outcome.reason


def test_a_peer_that_aborts_in_the_store(start: Start, rtstruct: Path) -> None:
    def abort(event: Any) -> int:
        event.assoc.abort()
        return 0x0000

    assert SENDER.deliver(rtstruct, start(abort)).kind is RETRY


def test_an_ae_title_that_is_not_known_needs_a_person(start: Start, rtstruct: Path) -> None:
    outcome = SENDER.deliver(rtstruct, start(require_calling_aet=["SOMEONE"]))
    assert outcome.kind is REFUSED
    assert "Calling AE title not recognised" in outcome.reason
    assert "check the AE titles" in outcome.reason


def test_a_peer_that_is_busy_is_tried_again(start: Start, rtstruct: Path) -> None:
    busy = start(maximum_associations=1)
    sender = AE("OTHER")
    sender.add_requested_context(Verification)
    other = sender.associate(LOOPBACK, busy.port, ae_title="PACS")
    outcome = SENDER.deliver(rtstruct, busy)
    other.release()
    assert outcome.kind is RETRY
    assert "for now" in outcome.reason


def test_a_peer_that_takes_no_structure_sets(rtstruct: Path) -> None:
    node = AE("PACS")
    node.add_supported_context(CTImageStorage)
    server = node.start_server((LOOPBACK, 0), block=False)
    outcome = SENDER.deliver(rtstruct, destination(server.socket.getsockname()[1]))
    server.shutdown()
    assert outcome.kind is REFUSED
    assert "does not take RT Structure Set Storage" in outcome.reason


def test_a_peer_that_takes_big_endian_only(start: Start, rtstruct: Path) -> None:
    assert SENDER.deliver(rtstruct, start(syntaxes=ExplicitVRBigEndian)).kind is REFUSED


@pytest.mark.parametrize("content", [None, b"", b"no DICOM"])
def test_a_file_that_is_lost_or_damaged_is_no_reason_to_try_again(
    start: Start, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "rt.dcm"
    if content is not None:
        path.write_bytes(content)
    outcome = SENDER.deliver(path, start())
    assert outcome.kind is REFUSED
    assert "rt.dcm cannot be read" in outcome.reason


def test_echo(start: Start) -> None:
    assert SENDER.echo(start()).kind is ACCEPTED
    assert SENDER.echo(destination(free_port())).kind is UNREACHABLE


@pytest.mark.peers
def test_dcmtk_gets_the_same_bytes(rtstruct: Path, tmp_path: Path) -> None:
    with storescp(tmp_path, "PACS") as peer:
        assert SENDER.deliver(rtstruct, destination(peer.port)).kind is ACCEPTED
        assert SENDER.echo(destination(peer.port)).kind is ACCEPTED
        (arrived,) = peer.datasets()
    assert arrived == pydicom.dcmread(rtstruct)
