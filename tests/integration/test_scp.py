"""The SCP on loopback: which images it takes, and what it answers."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, _config
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.file_meta import sender_of
from contourd.dicom.reading.instance import read_instance
from contourd.dicom.uids import IMPLEMENTATION
from contourd.errors import QueueUnavailable
from tests.integration.receiving import Receiver, Start, sending
from tests.peers import LOOPBACK, echoscu, storescu
from tests.phantom import rewrite

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
UNCOMPRESSED = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def test_it_answers_an_echo(receiver: Receiver) -> None:
    with sending(receiver.port) as association:
        assert association.send_c_echo().Status == 0x0000
        assert association.acceptor.implementation_class_uid == IMPLEMENTATION
        assert association.acceptor.maximum_length == 1 << 20


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
    assert stored.file_meta.SendingApplicationEntityTitle == "SCANNER" == sender_of(path)
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
        (EnhancedCTImageStorage, ImplicitVRLittleEndian),
        (SecondaryCaptureImageStorage, ImplicitVRLittleEndian),
        (CTImageStorage, JPEG2000),
        (CTImageStorage, JPEGLSNearLossless),
    ],
)
def test_other_classes_and_compression_with_losses_are_not_taken(
    receiver: Receiver, sop_class: str, syntax: str
) -> None:
    sender = AE("SCANNER")
    sender.add_requested_context(sop_class, syntax)
    sender.add_requested_context(Verification)
    association = sender.associate(LOOPBACK, receiver.port, ae_title="CONTOURD")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    assert [context.abstract_syntax for context in association.rejected_contexts] == [sop_class]
    association.release()


def uids(path: Path) -> tuple[str, str]:
    header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
    return str(header.SeriesInstanceUID), str(header.SOPInstanceUID)


def named(receiver: Receiver) -> list[tuple[str, str, int]]:
    """Return what was refused: series, instance and status."""
    return [(one.series_instance_uid, one.sop_instance_uid, one.status) for one in receiver.sink.refused]


@pytest.fixture
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pynetdicom send the bytes of a file without reading them."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.mark.usefixtures("as_they_are")
def test_a_dataset_that_is_cut_off_is_refused_with_a_comment_and_leaves_nothing(
    receiver: Receiver, images: list[Path]
) -> None:
    whole, instance = images[0].read_bytes(), uids(images[0])[1]
    images[0].write_bytes(whole[:-1000])
    with sending(receiver.port) as association:
        answer = association.send_c_store(images[0])
        assert answer.Status == 0xC000
        assert "dataset is cut off" in answer.ErrorComment
        assert named(receiver) == [(uids(images[1])[0], instance, 0xC000)]
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
    assert named(receiver) == [(*uids(images[0]), 0xA900)]


def test_no_room_is_out_of_resources(start: Start, images: list[Path]) -> None:
    receiver = start()
    with sending(receiver.port) as association:
        receiver.spool.min_free_bytes = 10**18
        answer = association.send_c_store(pydicom.dcmread(images[0]))
    assert answer.Status == 0xA700
    assert "GB are free" in answer.ErrorComment
    assert receiver.sink.received == []
    assert named(receiver) == [(*uids(images[0]), 0xA700)]
    (refused,) = receiver.sink.refused
    assert "GB are free" in str(refused.reason)
    assert refused.calling_ae == "SCANNER"


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
    assert named(receiver) == [(*uids(images[0]), 0x0110)]
    assert "secret" not in str(receiver.sink.refused[0].reason)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("as_they_are")
def test_of_bytes_that_nobody_can_read_the_command_is_known(receiver: Receiver, images: list[Path]) -> None:
    meta = 144 + pydicom.dcmread(images[0]).file_meta.FileMetaInformationGroupLength
    content = images[0].read_bytes()
    instance = uids(images[0])[1]
    images[0].write_bytes(content[:meta] + b"no DICOM " * 400)
    with sending(receiver.port) as association:
        assert association.send_c_store(images[0]).Status == 0xC000
    assert named(receiver) == [("", instance, 0xC000)]


def test_what_is_no_ct_image_marks_nothing(receiver: Receiver, images: list[Path]) -> None:
    image = pydicom.dcmread(images[0])
    image.SOPClassUID = MRImageStorage
    del image.StudyInstanceUID
    with sending(receiver.port) as association:
        (context,) = [c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage]
        context.abstract_syntax = MRImageStorage  # a sender that takes one context for another
        assert association.send_c_store(image).Status == 0xC000
    assert receiver.sink.refused == []


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


def test_a_burst_of_refusals_is_told_once_and_counted_at_its_end(
    receiver: Receiver, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with sending(receiver.port) as association:
        for path in images[:5]:
            image = pydicom.dcmread(path)
            del image.StudyInstanceUID
            assert association.send_c_store(image).Status != 0x0000
    receiver.sink.wait_for("closed", 1, False)
    told = [record.getMessage() for record in caplog.records if "refused with status" in record.getMessage()]
    assert len(told) == 2
    assert told[0].startswith("instance refused with status 0x")
    assert told[1].startswith("5 instances in all were refused with status 0x")


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
