"""The SCP on loopback: what it takes, what it answers, and what it tells the sink."""

from __future__ import annotations

import gc
import hashlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
)
from pynetdicom import AE, _config
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.instance import read_instance
from contourd.dicom.rtstruct_write import IMPLEMENTATION
from contourd.dicom.scp import ReceivedInstance, StorageSCP
from contourd.dicom.spool import Spool
from contourd.errors import QueueUnavailable
from contourd.settings import NodeSettings
from tests.peers import LOOPBACK, echoscu, free_port, storescu
from tests.phantom import rewrite, write_series

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
WAIT_S = 20.0
UNCOMPRESSED = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


@dataclass
class Recorder:
    """A sink that keeps what it is told; ``before_storing`` runs where a database would be written."""

    root: Path
    before_storing: Callable[[], None] = lambda: None
    told: list[tuple[Any, ...]] = field(default_factory=list)
    received: list[ReceivedInstance] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:
        self._note("opened", association_id, calling_ae, peer)

    def instance_stored(self, received: ReceivedInstance) -> None:
        self.before_storing()
        assert (self.root / received.path).is_file()
        self.received.append(received)
        self._note("stored", received.association_id)

    def association_closed(self, association_id: int, aborted: bool) -> None:
        self._note("closed", association_id, aborted)

    def _note(self, *what: Any) -> None:
        with self.changed:
            self.told.append(what)
            self.changed.notify_all()

    def wait_for(self, *what: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: what in self.told, WAIT_S), f"{what} did not come: {self.told}"


@dataclass
class Receiver:
    scp: StorageSCP
    sink: Recorder
    spool: Spool

    @property
    def port(self) -> int:
        return self.scp.port

    def files(self) -> list[Path]:
        return sorted(path for path in self.spool.root.rglob("*.dcm"))


Start = Callable[..., Receiver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[StorageSCP] = []

    def run(min_free_bytes: int = 0, **node: Any) -> Receiver:
        spool = Spool(tmp_path / "spool", min_free_bytes)
        sink = Recorder(spool.root)
        scp = StorageSCP(NodeSettings(host=LOOPBACK, port=free_port(), **node), spool, sink)
        scp.start()
        running.append(scp)
        return Receiver(scp, sink, spool)

    yield run
    for scp in running:
        scp.stop()
    gc.collect()


@pytest.fixture
def receiver(start: Start) -> Receiver:
    return start()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return sorted(write_series(tmp_path / "ct").iterdir())


def associate(port: int, *syntaxes: str, calling: str = "SCANNER", called: str = "CONTOURD") -> Any:
    sender = AE(calling)
    for syntax in syntaxes or [ExplicitVRLittleEndian]:
        sender.add_requested_context(CTImageStorage, syntax)
    sender.add_requested_context(Verification)
    return sender.associate(LOOPBACK, port, ae_title=called)


@contextmanager
def sending(port: int, *syntaxes: str) -> Iterator[Any]:
    association = associate(port, *syntaxes)
    assert association.is_established
    yield association
    association.release()


def test_it_answers_an_echo(receiver: Receiver) -> None:
    with sending(receiver.port) as association:
        assert association.send_c_echo().Status == 0x0000
        assert association.acceptor.implementation_class_uid == IMPLEMENTATION
        assert association.acceptor.maximum_length == 0


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda uid: uid.name)
def test_an_instance_is_kept_byte_for_byte_in_the_syntax_it_came_in(
    receiver: Receiver, images: list[Path], syntax: pydicom.uid.UID
) -> None:
    image = pydicom.dcmread(images[0])
    if syntax is ExplicitVRBigEndian:
        image.file_meta.TransferSyntaxUID = syntax
        pixels = bytearray(image.PixelData)
        pixels[::2], pixels[1::2] = pixels[1::2], pixels[::2]
        image.PixelData = bytes(pixels)
        pydicom.dcmwrite(images[0], image, implicit_vr=False, little_endian=False)
        image = pydicom.dcmread(images[0])
    with sending(receiver.port, syntax) as association:
        assert association.send_c_store(image).Status == 0x0000
    (received,) = receiver.sink.received
    (path,) = receiver.files()
    assert path == receiver.spool.root / received.path
    stored = pydicom.dcmread(path)
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert stored.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID == received.sop_instance_uid
    assert stored.file_meta.ImplementationClassUID == IMPLEMENTATION
    assert stored == image
    assert (stored.pixel_array == image.pixel_array).all()
    meta_length = 144 + stored.file_meta.FileMetaInformationGroupLength
    assert received.sha256 == hashlib.sha256(path.read_bytes()[meta_length:]).hexdigest()
    assert received.series_instance_uid == image.SeriesInstanceUID
    assert received.patient == receiver.spool.pseudonym(image.PatientID)
    assert read_instance(path).rows == 40


@pytest.mark.parametrize(
    ("sop_class", "syntax"),
    [
        (MRImageStorage, ImplicitVRLittleEndian),
        (CTImageStorage, JPEGLosslessSV1),
        (CTImageStorage, DeflatedExplicitVRLittleEndian),
    ],
)
def test_other_classes_and_compressed_pixels_are_not_taken(receiver: Receiver, sop_class: str, syntax: str) -> None:
    sender = AE("SCANNER")
    sender.add_requested_context(sop_class, syntax)
    sender.add_requested_context(Verification)
    association = sender.associate(LOOPBACK, receiver.port, ae_title="CONTOURD")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    assert [context.abstract_syntax for context in association.rejected_contexts] == [sop_class]
    association.release()


def test_a_wrong_called_ae_title_is_rejected(receiver: Receiver) -> None:
    association = associate(receiver.port, called="SOMEONE")
    assert association.is_rejected
    # PS3.8 9.3.4: permanent, service user, called AE title not recognized.
    primitive = association.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (1, 1, 7)
    assert receiver.sink.told == []


def test_only_callers_that_are_allowed_get_in(start: Start) -> None:
    receiver = start(allowed_callers=("CT1", "CT2"))
    refused = associate(receiver.port, calling="CT3")
    assert refused.is_rejected
    assert refused.acceptor.primitive.diagnostic == 3
    accepted = associate(receiver.port, calling="CT2")
    assert accepted.is_established
    accepted.release()
    receiver.sink.wait_for("closed", 1, False)
    assert [what[0] for what in receiver.sink.told] == ["opened", "closed"]


def test_one_association_too_many_is_rejected_for_now(start: Start) -> None:
    receiver = start(max_associations=1)
    with sending(receiver.port):
        refused = associate(receiver.port)
        assert refused.is_rejected
        # Transient, service provider (presentation), local limit exceeded.
        primitive = refused.acceptor.primitive
        assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)


@pytest.fixture
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pynetdicom send the bytes of a file without reading them."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.mark.usefixtures("as_they_are")
def test_a_dataset_that_is_cut_off_is_refused_with_a_comment_and_leaves_nothing(
    receiver: Receiver, images: list[Path]
) -> None:
    whole = images[0].read_bytes()
    images[0].write_bytes(whole[:-1000])
    with sending(receiver.port) as association:
        answer = association.send_c_store(images[0])
        assert answer.Status == 0xC000
        assert "dataset is cut off" in answer.ErrorComment
        assert len(answer.ErrorComment) <= 64
        assert receiver.sink.received == []
        assert [path for path in receiver.spool.root.rglob("*") if path.is_file()] == []
        assert association.send_c_store(images[1]).Status == 0x0000


@pytest.mark.usefixtures("as_they_are")
def test_a_dataset_that_is_not_what_its_command_says_is_refused(receiver: Receiver, images: list[Path]) -> None:
    content = images[0].read_bytes()
    uid = str(pydicom.dcmread(images[0]).SOPInstanceUID).encode()
    head, tail = content.split(uid, 1)  # the first is in the file meta information, from which the command is made
    images[0].write_bytes(head + uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2") + tail)
    with sending(receiver.port) as association:
        assert association.send_c_store(images[0]).Status == 0xA900
    assert receiver.files() == []


def test_no_room_is_out_of_resources(start: Start, images: list[Path]) -> None:
    receiver = start(min_free_bytes=10**18)
    with sending(receiver.port) as association:
        answer = association.send_c_store(pydicom.dcmread(images[0]))
    assert answer.Status == 0xA700
    assert "GB are free" in answer.ErrorComment
    assert receiver.sink.received == []


def test_a_database_that_cannot_take_it_is_out_of_resources(receiver: Receiver, images: list[Path]) -> None:
    def fail() -> None:
        receiver.sink.before_storing = lambda: None
        raise QueueUnavailable("database is locked")

    receiver.sink.before_storing = fail
    with sending(receiver.port) as association:
        assert association.send_c_store(pydicom.dcmread(images[0])).Status == 0xA700
        assert association.send_c_store(pydicom.dcmread(images[0])).Status == 0x0000


def test_what_nobody_foresaw_is_a_processing_failure_and_tells_the_peer_nothing(
    receiver: Receiver, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise LookupError("inner secret")

    receiver.sink.before_storing = fail
    with sending(receiver.port) as association:
        answer = association.send_c_store(pydicom.dcmread(images[0]))
    assert answer.Status == 0x0110
    assert "secret" not in answer.ErrorComment
    assert "LookupError" in caplog.text


def test_the_same_instance_twice_is_told_twice_and_nothing_is_overwritten(
    receiver: Receiver, images: list[Path]
) -> None:
    with sending(receiver.port) as association:
        for _ in range(2):
            assert association.send_c_store(pydicom.dcmread(images[0])).Status == 0x0000
    first, second = receiver.sink.received
    assert (first.sop_instance_uid, first.sha256) == (second.sop_instance_uid, second.sha256)
    assert first.path != second.path
    assert len(receiver.files()) == 2


def test_an_mr_that_comes_as_ct_is_stored_for_the_gate_to_hold(receiver: Receiver, images: list[Path]) -> None:
    rewrite(images[0], lambda ds: setattr(ds, "Modality", "MR"))
    with sending(receiver.port) as association:
        assert association.send_c_store(pydicom.dcmread(images[0])).Status == 0x0000


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_uid_never_becomes_a_path(receiver: Receiver, images: list[Path]) -> None:
    image = pydicom.dcmread(images[0])
    image.SOPInstanceUID = image.SeriesInstanceUID = "../../../evil"
    with sending(receiver.port) as association:
        association.send_c_store(image)
    for path in receiver.spool.root.parent.rglob("*"):
        assert "evil" not in path.name


def test_a_release_is_told_once(receiver: Receiver, images: list[Path]) -> None:
    for number in range(1, 21):
        with sending(receiver.port) as association:
            association.send_c_store(pydicom.dcmread(images[number]))
        receiver.sink.wait_for("closed", number, False)
    kinds = [what[0] for what in receiver.sink.told]
    assert kinds == ["opened", "stored", "closed"] * 20


def test_an_abort_is_told_once(receiver: Receiver, images: list[Path]) -> None:
    association = associate(receiver.port)
    association.send_c_store(pydicom.dcmread(images[0]))
    association.abort()
    receiver.sink.wait_for("closed", 1, True)
    with sending(receiver.port):  # whatever else there may be to tell has been told by then
        pass
    receiver.sink.wait_for("closed", 2, False)
    assert [what for what in receiver.sink.told if what[:2] == ("closed", 1)] == [("closed", 1, True)]


def test_a_connection_that_breaks_is_an_abort(receiver: Receiver) -> None:
    association = associate(receiver.port)
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    receiver.sink.wait_for("closed", 1, True)
    association.kill()


def test_a_peer_that_asks_for_release_and_hangs_up_has_released(receiver: Receiver) -> None:
    association = associate(receiver.port)
    connection = association.dul.socket.socket
    connection.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")  # A-RELEASE-RQ, PS3.8 9.3.6
    connection.shutdown(socket.SHUT_RDWR)
    receiver.sink.wait_for("closed", 1, False)
    association.kill()


def test_the_end_never_overtakes_a_store(receiver: Receiver, images: list[Path]) -> None:
    """The connection breaks while the database works: the instance is told first, then the end."""
    storing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        storing.set()
        assert go_on.wait(WAIT_S)

    receiver.sink.before_storing = wait
    association = associate(receiver.port)
    sender = threading.Thread(target=association.send_c_store, args=(pydicom.dcmread(images[0]),))
    sender.start()
    assert storing.wait(WAIT_S)
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    sender.join(WAIT_S)
    go_on.set()
    receiver.sink.wait_for("closed", 1, True)
    assert [what[0] for what in receiver.sink.told] == ["opened", "stored", "closed"]


def test_stopping_lets_the_store_under_way_end_and_takes_nothing_new(receiver: Receiver, images: list[Path]) -> None:
    storing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        storing.set()
        assert go_on.wait(WAIT_S)

    receiver.sink.before_storing = wait
    port = receiver.port
    association = associate(port)
    sender = threading.Thread(target=association.send_c_store, args=(pydicom.dcmread(images[0]),))
    sender.start()
    assert storing.wait(WAIT_S)
    stopper = threading.Thread(target=receiver.scp.stop)
    stopper.start()
    stopper.join(1.0)
    assert stopper.is_alive()
    go_on.set()
    stopper.join(WAIT_S)
    sender.join(WAIT_S)
    assert not stopper.is_alive()
    receiver.sink.wait_for("stored", 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, port))


def test_a_port_that_is_taken_says_so(receiver: Receiver) -> None:
    other = StorageSCP(NodeSettings(host=LOOPBACK, port=receiver.port), receiver.spool, receiver.sink)
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.stop()


def test_the_log_names_no_patient(receiver: Receiver, images: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    image = pydicom.dcmread(images[0])
    with sending(receiver.port) as association:
        association.send_c_store(image)
        del image.StudyInstanceUID
        assert association.send_c_store(image).Status == 0xC000
    receiver.sink.wait_for("closed", 1, False)
    assert "association accepted" in caplog.text
    assert "lacks StudyInstanceUID" in caplog.text
    assert not [word for word in (image.PatientID, str(image.PatientName), image.SOPInstanceUID) if word in caplog.text]


@pytest.mark.peers
def test_dcmtk_sends_a_series_and_an_echo(receiver: Receiver, images: list[Path]) -> None:
    assert echoscu(receiver.port).status == 0
    sent = storescu(receiver.port, images[0].parent)
    assert sent.status == 0, sent.output
    receiver.sink.wait_for("closed", 2, False)
    assert len(receiver.sink.received) == len(receiver.files()) == 24


def test_answers_have_no_comment_when_all_is_well(receiver: Receiver, images: list[Path]) -> None:
    with sending(receiver.port) as association:
        answer: Dataset = association.send_c_store(pydicom.dcmread(images[0]))
    assert "ErrorComment" not in answer
