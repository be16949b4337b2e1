"""`contourd echo`, `send` and `accept`: files go as they are, every answer is counted, and nothing is called sent."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    RTStructureSetStorage,
)
from pynetdicom import evt
from typer.testing import CliRunner, Result

from contourd.acceptance.phantom import SOLIDS
from contourd.cli import app
from contourd.dicom.network.sender import dicom_files
from contourd.errors import NodeError
from tests.integration.answering import answering
from tests.integration.receiving import Receiver, Start
from tests.peers import LOOPBACK, free_port

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings are found by chance."""
    monkeypatch.chdir(tmp_path)
    yield
    gc.collect()


def contourd(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def peer(receiver: Receiver) -> str:
    return f"CONTOURD@{LOOPBACK}:{receiver.port}"


def test_each_file_goes_in_its_own_transfer_syntax(receiver: Receiver, images: list[Path]) -> None:
    wanted = {}
    syntaxes = (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, ExplicitVRLittleEndian)
    for path, syntax in zip(images, syntaxes * len(images), strict=False):
        dataset = pydicom.dcmread(path)
        if syntax == RLELossless:
            dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=True)
        wanted[str(dataset.SOPInstanceUID)] = (syntax, pydicom.dcmread(path))
    (images[0].parent / "notes.txt").write_text("no image")
    ran = contourd("send", images[0].parent, "--to", peer(receiver))
    assert ran.exit_code == 0, ran.output
    assert f"{len(images)} of {len(images)} files taken (0x0000: {len(images)})" in ran.output
    assert "1 files are no DICOM files" in ran.output
    received = [pydicom.dcmread(path) for path in receiver.files()]
    assert len(received) == len(images)
    for dataset in received:
        syntax, sent = wanted[str(dataset.SOPInstanceUID)]
        assert dataset.file_meta.TransferSyntaxUID == syntax
        assert dataset == sent


def test_a_single_file_and_a_file_that_is_none(receiver: Receiver, images: list[Path], tmp_path: Path) -> None:
    ran = contourd("send", images[3], "--to", peer(receiver))
    assert (ran.exit_code, len(receiver.files())) == (0, 1), ran.output
    note = tmp_path / "note.txt"
    note.write_text("no image")
    assert isinstance(contourd("send", note, "--to", peer(receiver)).exception, NodeError)


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = contourd("accept", f"PEER@{LOOPBACK}:104", "--dry-run", "--output", tmp_path / "file" / "out")
    assert isinstance(ran.exception, NodeError)
    assert "--output" in str(ran.exception)


def test_every_status_is_counted_and_one_refusal_is_a_failure(images: list[Path]) -> None:
    statuses = {2: 0xB007, 3: 0xA700, 4: 0xC123}
    with answering(lambda n, event: statuses.get(n, 0x0000)) as to:
        ran = contourd("send", images[0].parent, "--to", to)
    assert ran.exit_code == 1
    total = len(images)
    counts = f"0x0000: {total - 3}, 0xA700: 1, 0xB007: 1, 0xC123: 1"
    assert f"{total - 2} of {total} files taken ({counts})" in ran.output
    assert images[2].name in ran.output
    assert images[3].name in ran.output
    assert images[1].name not in ran.output  # a warning: it has it


def test_what_was_not_answered_is_not_called_sent(images: list[Path]) -> None:
    def abort_at_third(n: int, event: evt.Event) -> int:
        if n == 3:
            event.assoc.abort()
        return 0x0000

    with answering(abort_at_third) as to:
        ran = contourd("send", images[0].parent, "--to", to)
    assert ran.exit_code == 1
    left = len(images) - 2
    assert f"2 of {len(images)} files taken (0x0000: 2, not sent or not answered: {left})" in ran.output
    assert "the association ended before it" in ran.output


def test_a_class_that_is_not_taken_is_told_by_its_name(images: list[Path]) -> None:
    other = pydicom.dcmread(images[0])
    other.Manufacturer = "another"  # what contourd writes is examined by conftest.py
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    other.save_as(images[0], enforce_file_format=True)
    with answering(lambda n, event: 0x0000, CTImageStorage) as to:
        ran = contourd("send", images[0].parent, "--to", to)
    assert ran.exit_code == 1
    assert f"{len(images) - 1} of {len(images)} files taken" in ran.output
    assert "RT Structure Set Storage in Explicit VR Little Endian is not taken there" in ran.output


def test_nobody_there(images: list[Path], tmp_path: Path) -> None:
    to = f"PEER@{LOOPBACK}:{free_port()}"
    sent, asked = contourd("send", images[0].parent, "--to", to), contourd("echo", to)
    assert (sent.exit_code, asked.exit_code) == (1, 1)
    assert f"0 of {len(images)} files taken" in sent.output
    assert "cannot be reached" in sent.output
    assert "cannot be reached" in asked.output
    assert contourd("send", tmp_path / "nothing", "--to", to).exception is not None


def test_a_dicomdir_and_what_is_no_dicom_file_are_left_out(images: list[Path]) -> None:
    folder = images[0].parent
    (folder / "empty").touch()
    (folder / "cut").write_bytes(b"DIC")
    directory = pydicom.dcmread(images[0])
    directory.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.save_as(folder / "DICOMDIR", enforce_file_format=False)
    found, others = dicom_files(folder)
    assert sorted(found) == images
    assert sorted(path.name for path in others) == ["DICOMDIR", "cut", "empty"]


def test_echo_by_address_by_name_and_of_all(start: Start, tmp_path: Path) -> None:
    receiver = start(allowed_callers=("HN_NODE",))
    settings = tmp_path / "contourd.toml"
    settings.write_text(
        f'[node]\nae_title = "HN_NODE"\nport = {receiver.port}\n[spool]\nroot = "{tmp_path}"\n'
        f'[[destination]]\nname = "tps"\nae_title = "CONTOURD"\nhost = "{LOOPBACK}"\nport = {receiver.port}\n'
        '[[route]]\nmodel = "hn7"\ndestinations = ["tps"]\n'
    )
    for arguments in (("tps",), (), (peer(receiver),)):
        ran = contourd("echo", *arguments)
        assert ran.exit_code == 0, ran.output
        assert "answers HN_NODE" in ran.output
    refused = contourd("echo", "tps", "--calling", "STRANGER")
    assert refused.exit_code == 1
    assert "check the AE titles" in refused.output
    own = contourd("echo", "self")  # it is called CONTOURD there, and HN_NODE in these settings
    assert own.exit_code == 1
    assert "not recognised" in own.output.lower() or "not recognized" in own.output.lower()


def test_accept_sends_ct_first_and_says_what_was_not_taken(tmp_path: Path) -> None:
    classes: list[str] = []

    def refuse_the_first_structure_set(n: int, event: evt.Event) -> int:
        classes.append(event.request.AffectedSOPClassUID)
        return 0xC000 if n == 65 else 0x0000

    with answering(refuse_the_first_structure_set) as to:
        ran = contourd("accept", to, "--profile", "eclipse", "--output", tmp_path / "out")
    assert ran.exit_code == 1, ran.output
    assert classes == 2 * [*[CTImageStorage] * 64, RTStructureSetStorage]
    assert "HFS: CT: 64 of 64 files taken (0x0000: 64); structure set not taken" in ran.output
    assert "FFS: CT: 64 of 64 files taken (0x0000: 64); structure set taken" in ran.output
    page = (tmp_path / "out" / "sheet.html").read_text(encoding="utf-8")
    assert "structure set not taken" in page
    assert "<b>eclipse</b>" in page
    for solid in SOLIDS:
        assert solid.name in ran.output
        assert f"{solid.volume_cc:.2f}" in ran.output


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    came: list[evt.Event] = []
    with answering(lambda n, event: came.append(event) or 0x0000) as to:
        ran = contourd("accept", to, "--dry-run", "--output", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    assert came == []
    assert "not sent (dry run)" in (tmp_path / "out" / "sheet.html").read_text(encoding="utf-8")
    found, _ = dicom_files(tmp_path / "out")
    assert len(found) == 2 * 65
