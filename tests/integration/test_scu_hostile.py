"""Destinations that break the rules: held to the same bounds as senders, and believed only where they answer."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pydicom
import pytest

from contourd.dicom.network.commitment_messages import CommitmentReport, CommitmentRequest, InstanceReference
from contourd.dicom.network.commitment_scu import CommitmentSCU
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.network.sender import FileSender
from contourd.dicom.rtstruct.writer import save_structure_set
from contourd.settings import SenderNode
from tests.fuzz.pdus import AC, DATA, VERIFICATION, command, p_data, pdu
from tests.peers import LOOPBACK
from tests.phantom import read_series, structure_set, write_series
from tests.rogues import C_ECHO, C_STORE, CHUNK, COMMAND, N_EVENT, NO_DATA, RESPONSE, RTSTRUCT, Line, rogue

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")
ACCEPTED, RETRY, IMPROPER = OutcomeKind.ACCEPTED, OutcomeKind.RETRY, OutcomeKind.IMPROPER
UNREACHABLE = OutcomeKind.UNREACHABLE
SENDER = StorageSCU("CONTOURD")
GROWTH_MB = 40.0


@pytest.fixture(scope="module")
def rtstruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scu")
    path = folder / "rt.dcm"
    save_structure_set(structure_set(read_series(write_series(folder / "ct"))), path)
    return path


def answering(**changes: bytes | int | None) -> Callable[[Line], None]:
    """Play a destination that answers everything by an answer that is changed so."""

    def play(line: Line) -> None:
        line.accept()
        while True:
            line.send(line.asked().answer(**changes))

    return play


def bounded(ask: Callable[[], Outcome], within_s: float) -> Outcome:
    """Ask, and hold it to its time and memory, and to leaving no threads behind."""
    gc.collect()
    before, threads, began = psutil.Process().memory_info().rss, threading.active_count(), time.monotonic()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak.append(psutil.Process().memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    outcome = ask()
    took_s = time.monotonic() - began
    done.set()
    watching.join()
    assert took_s < within_s
    assert (max(peak) - before) / 2**20 < GROWTH_MB
    deadline = time.monotonic() + 10
    while threading.active_count() > threads + 1 and time.monotonic() < deadline:  # the rogue's own
        time.sleep(0.02)
    assert threading.active_count() <= threads + 1
    return outcome


OTHER = b"1.2.840.10008.5.1.4.1.1.2\0"
WRONG = {
    "another message": {"message": 7},
    "another instance": {"instance": b"1.2.3\0"},
    "another SOP class": {"sop_class": OTHER},
    "another context": {"context": 3},
    "a C-ECHO-RSP": {"field": C_ECHO | RESPONSE},
    "an N-ACTION-RSP": {"field": 0x8130},
    "a C-STORE-RQ": {"field": C_STORE, "message": None},
    "no status": {"status": None},
    "a C-STORE-RQ that names the message": {"field": C_STORE},
    "two statuses": {"status": bytes(4)},
}


@pytest.mark.parametrize("what", WRONG)
def test_an_answer_that_is_not_the_answer_delivers_nothing(rtstruct: Path, what: str) -> None:
    with rogue(answering(**WRONG[what])) as peer:  # type: ignore[arg-type]
        outcome = bounded(lambda: SENDER.deliver(rtstruct, peer.destination()), 10)
    assert (outcome.kind, outcome.status) == (IMPROPER, None)
    assert "breaks the rules of DICOM: it does not answer what it was asked; " in outcome.reason
    assert outcome.reason.isprintable()


@pytest.mark.parametrize(
    "changes", [{}, {"sop_class": None, "instance": None}, {"sop_class": RTSTRUCT + b" "}], ids=str
)
def test_the_answer_may_repeat_what_was_asked_or_not(rtstruct: Path, changes: dict[str, bytes | None]) -> None:
    with rogue(answering(**changes)) as peer:
        outcome = bounded(lambda: SENDER.deliver(rtstruct, peer.destination()), 10)
    assert (outcome.kind, outcome.status, outcome.reason) == (ACCEPTED, 0, "")


@pytest.mark.parametrize("changes", [{"message": 9}, {"sop_class": OTHER}, {"field": C_STORE | RESPONSE}], ids=str)
def test_an_echo_is_answered_by_its_answer_alone(changes: dict[str, bytes | int]) -> None:
    with rogue(answering(**changes)) as peer:
        assert SENDER.echo(peer.destination()).kind is IMPROPER
    with rogue(answering()) as peer:
        assert SENDER.echo(peer.destination()).kind is ACCEPTED


def test_an_answer_that_is_told_twice_does_not_answer_the_next_question(tmp_path: Path) -> None:
    files = implicit_files(tmp_path)

    def play(line: Line) -> None:
        line.accept()
        answer = line.asked().answer(sop_class=None, instance=None)
        line.send(answer + answer)
        line.asked()
        time.sleep(1)

    with rogue(play) as peer:
        sent = FileSender("TEST").send_files(files, peer.destination())
    assert [one.taken for one in sent] == [True, False, False, False]


def implicit_files(folder: Path) -> list[Path]:
    """Four files in the syntax in which the rogue takes the first context."""
    files = sorted(write_series(folder / "ct").iterdir())[:4]
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    return files


@pytest.mark.parametrize("changes", [{"message": 9}, {"instance": b"1.2.3\0"}, {"sop_class": OTHER}], ids=str)
def test_a_request_for_commitment_and_a_report_are_held_to_the_same(changes: dict[str, bytes | int]) -> None:
    class Nobody:
        def reported(self, calling_ae: str, report: CommitmentReport) -> None: ...

    committer = CommitmentSCU("CONTOURD", Nobody(), same_association_s=0.1)
    wanted = InstanceReference(RTSTRUCT.decode(), "1.2.3")
    with rogue(answering(**changes)) as peer:
        assert committer.ask(CommitmentRequest("1.2.4", (wanted,)), peer.destination()).kind is IMPROPER
        sender = SenderNode(ae_title="ROGUE", host=LOOPBACK, port=peer.port)
        assert committer.report(CommitmentReport("1.2.4", (wanted,), {}), sender).kind is not ACCEPTED
    with rogue(answering()) as peer:
        assert committer.ask(CommitmentRequest("1.2.4", (wanted,)), peer.destination()).kind is ACCEPTED


def after_the_request(play: Callable[[Line], None]) -> Callable[[Line], None]:
    def whole(line: Line) -> None:
        line.accept()
        line.asked()
        play(line)

    return whole


def huge(line: Line) -> None:
    line.send(pdu(DATA, b"", 0x7FFFFFFF))
    line.flood()


def endless_command(line: Line) -> None:
    line.flood(p_data((1, COMMAND, CHUNK[:16000])))


def empty_fragments(line: Line) -> None:
    line.flood(p_data(*[(1, COMMAND, b"")] * 100))


def reports(line: Line) -> None:
    event = {0x0002: VERIFICATION + b"\0", 0x0100: N_EVENT.to_bytes(2, "little"), 0x0110: b"\1\0", 0x0800: NO_DATA}
    line.flood(p_data((1, 3, command({**event, 0x1000: b"1.2", 0x1002: b"\1\0"}))))


def requests(line: Line) -> None:
    echo = {0x0002: VERIFICATION + b"\0", 0x0100: b"\x30\0", 0x0110: b"\7\0", 0x0800: NO_DATA}
    line.flood(p_data((1, 3, command(echo))))


def drip_answer(line: Line) -> None:
    line.drip(pdu(DATA, bytes(4000)))


def drip_pdus(line: Line) -> None:
    while True:
        line.send(p_data((1, COMMAND, b"\0")))
        time.sleep(0.05)


@pytest.mark.parametrize("play", [huge, endless_command, empty_fragments, reports, requests, drip_answer])
def test_what_a_destination_sends_is_bounded(rtstruct: Path, play: Callable[[Line], None]) -> None:
    with rogue(after_the_request(play)) as peer:
        outcome = bounded(lambda: SENDER.deliver(rtstruct, peer.destination(response_timeout_s=1.5)), 8)
    assert outcome.kind is IMPROPER


def test_fragments_that_come_in_time_do_not_prolong_an_answer(rtstruct: Path) -> None:
    with rogue(after_the_request(drip_pdus)) as peer:
        outcome = bounded(lambda: SENDER.deliver(rtstruct, peer.destination(response_timeout_s=1.0)), 8)
    assert outcome.kind in (RETRY, IMPROPER)


def drip_acceptance(line: Line) -> None:
    line.pdu()
    line.drip(pdu(AC, bytes(4000)))


def huge_acceptance(line: Line) -> None:
    line.pdu()
    line.send(pdu(AC, b"", 0x7FFFFFFF))
    line.flood()


def silent(line: Line) -> None:
    line.pdu()
    line.socket.recv(1)


def broken_acceptance(line: Line) -> None:
    line.pdu()
    line.send(pdu(AC, b"\xff" * 200))
    line.socket.recv(1)


@pytest.mark.parametrize("play", [drip_acceptance, huge_acceptance, silent, broken_acceptance])
def test_an_acceptance_is_bounded(rtstruct: Path, play: Callable[[Line], None]) -> None:
    with rogue(play) as peer:
        outcome = bounded(lambda: SENDER.deliver(rtstruct, peer.destination(connect_timeout_s=1.0)), 6)
    assert outcome.kind is UNREACHABLE


def test_a_destination_that_reads_nothing_holds_nothing_up(tmp_path: Path, rtstruct: Path) -> None:
    large = pydicom.dcmread(rtstruct)
    large.add_new((0x0009, 0x0010), "LO", "TEST")
    large.add_new((0x0009, 0x1001), "OB", bytes(16_000_000))
    large.save_as(tmp_path / "large.dcm")

    def play(line: Line) -> None:
        line.accept()
        time.sleep(8)

    with rogue(play) as peer:
        began = time.monotonic()
        outcome = SENDER.deliver(tmp_path / "large.dcm", peer.destination(response_timeout_s=1.0))
        assert time.monotonic() - began < 6
    assert outcome.kind is RETRY


@pytest.mark.parametrize("play", [lambda line: line.drip(pdu(6, bytes(4000))), lambda line: line.socket.recv(1)])
def test_what_was_answered_is_delivered_however_the_release_goes(rtstruct: Path, play: Callable[[Line], None]) -> None:
    def whole(line: Line) -> None:
        line.accept()
        line.send(line.asked().answer())
        line.pdu()
        play(line)

    with rogue(whole) as peer:
        outcome = bounded(lambda: SENDER.deliver(rtstruct, peer.destination(connect_timeout_s=1.0)), 8)
    assert outcome.kind is ACCEPTED


@pytest.mark.parametrize("largest", [1, 5, 6, 7, 8, 60, 127])
def test_a_maximum_length_that_leaves_no_room_is_said_and_nothing_raised(rtstruct: Path, largest: int) -> None:
    def play(line: Line) -> None:
        line.accept(largest)
        line.socket.recv(1)

    with rogue(play) as peer:
        outcome = SENDER.deliver(rtstruct, peer.destination())
        assert SENDER.echo(peer.destination()).kind is UNREACHABLE
    assert outcome.kind is UNREACHABLE
    assert f"takes PDUs of at most {largest} bytes" in outcome.reason


@pytest.mark.parametrize("largest", [0, None, 128, 0xFFFFFFFF])
def test_every_other_maximum_length_is_kept_to(rtstruct: Path, largest: int | None) -> None:
    def play(line: Line) -> None:
        line.accept(largest)
        while True:
            line.send(line.asked().answer())

    with rogue(play) as peer:
        assert SENDER.deliver(rtstruct, peer.destination()).kind is ACCEPTED


@pytest.mark.parametrize("syntax", [b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1", b"1.2", b""])
def test_a_transfer_syntax_that_was_not_proposed(rtstruct: Path, syntax: bytes) -> None:
    def play(line: Line) -> None:
        line.accept(syntax=syntax)
        line.socket.recv(1)

    with rogue(play) as peer:
        assert SENDER.deliver(rtstruct, peer.destination()).kind is not ACCEPTED


def test_hanging_up_ends_what_a_destination_does_not(rtstruct: Path) -> None:
    sender, answered = StorageSCU("CONTOURD"), threading.Event()

    def play(line: Line) -> None:
        line.accept()
        line.asked()
        answered.set()
        line.drip(pdu(DATA, bytes(4000)))

    outcomes: list[Outcome] = []
    with rogue(play) as peer:
        to = peer.destination(response_timeout_s=600.0, connect_timeout_s=600.0)
        sending = threading.Thread(target=lambda: outcomes.append(sender.deliver(rtstruct, to)))
        sending.start()
        assert answered.wait(20)
        sender.hang_up()
        sending.join(5)
        assert not sending.is_alive()
    assert outcomes[0].kind is RETRY


def test_of_many_files_each_has_a_message_of_its_own_and_a_wrong_answer_is_told(tmp_path: Path) -> None:
    files = implicit_files(tmp_path)
    messages: list[int] = []

    def play(line: Line) -> None:
        line.accept()
        while True:
            asked = line.asked()
            messages.append(asked.message)
            line.send(asked.answer(**({"message": 1} if len(messages) > 2 else {})))

    with rogue(play) as peer:
        sent = FileSender("TEST").send_files(files, peer.destination())
    assert messages == [1, 2, 3]
    assert [one.taken for one in sent] == [True, True, False, False]
    assert "it answers message 1, message 3 was sent" in sent[2].reason
