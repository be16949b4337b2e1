"""`contourd send` of folders that are made to hang it, to fill the memory, or to have something else sent."""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from typer.testing import CliRunner, Result

from contourd.cli import app
from contourd.dicom.reading.lenient import is_cut_off
from contourd.dicom.rtstruct.writer import save_structure_set
from tests.integration.answering import answering
from tests.integration.receiving import Receiver
from tests.peers import LOOPBACK, free_port
from tests.phantom import read_series, structure_set

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"), pytest.mark.timeout(120)]
GIB, META_BYTES = 2**30, 144
MANY = 10_000


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings are found by chance."""
    monkeypatch.chdir(tmp_path)
    yield
    gc.collect()


@pytest.fixture
def little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def send(folder: Path, to: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["send", str(folder), "--to", to, *more])


def peer(receiver: Receiver) -> str:
    return f"CONTOURD@{LOOPBACK}:{receiver.port}"


def sparse(path: Path, head: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def meta_of(path: Path) -> bytes:
    """Return the preamble and the file meta information of a file."""
    content = path.read_bytes()
    return content[: META_BYTES + int(pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength)]


@pytest.mark.usefixtures("little_memory")
def test_what_is_no_file_is_named_and_the_images_go(receiver: Receiver, images: list[Path]) -> None:
    folder = images[0].parent
    os.mkfifo(folder / "pipe.dcm")
    (folder / "device.dcm").symlink_to("/dev/zero")
    (folder / "again").symlink_to(folder)
    (folder / os.fsdecode(b"\xff\n.txt")).touch()
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(folder)  # the path of a socket may have 107 bytes
        one.bind("socket")
        ran = send(folder, peer(receiver))
    assert ran.exit_code == 0, ran.output
    assert f"{len(images)} of {len(images)} files taken" in ran.output
    assert len(receiver.files()) == len(images)
    assert "5 files are no DICOM files to be sent, and were left out:" in ran.output
    for name, reason in (
        ("pipe.dcm", "is a pipe, and not read"),
        ("device.dcm", "is a device, and not read"),
        ("socket", "is a socket, and not read"),
        ("again", "is a link to a folder, and not followed; name that folder itself"),
        (r"\udcff\n.txt", "is no DICOM file"),
    ):
        assert f"  {folder}/{name} {reason}\n" in ran.output


@pytest.mark.parametrize("name", ["pipe", "device"])
def test_a_pipe_alone_is_told(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    ran = send(tmp_path / name, f"PEER@{LOOPBACK}:{free_port()}")
    assert f"{tmp_path / name} is a {name}, and not read" in str(ran.exception)


@pytest.mark.usefixtures("little_memory")
def test_two_gigabytes_of_zeros_are_named_and_not_sent(receiver: Receiver, images: list[Path]) -> None:
    folder, whole = images[0].parent, meta_of(images[0])
    sparse(folder / "prefix.dcm", bytes(128) + b"DICM", 2 * GIB)
    sparse(folder / "meta.dcm", whole, 2 * GIB)
    sparse(folder / "small.dcm", bytes(128) + b"DICM", 2**20)
    ran = send(folder, peer(receiver), "--json")
    assert ran.exit_code == 1, ran.output
    told = json.loads(ran.stdout)
    assert (told["files"], told["taken"], told["left_out"]) == (len(images) + 3, len(images), [])
    reasons = {Path(one["file"]).name: one["reason"] for one in told["refused"]}
    large = "not sent: it has 2048 MiB; of an image or a structure set at most 256 are read"
    assert reasons == {
        "prefix.dcm": large,
        "meta.dcm": large,
        "small.dcm": "not sent: it cannot be read (InvalidDicomError); export it anew",
    }


@pytest.mark.usefixtures("little_memory")
def test_a_file_that_inflates_without_end_is_not_sent(receiver: Receiver, images: list[Path]) -> None:
    dataset = pydicom.dcmread(images[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(images[0], dataset)
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = [squeeze.compress(bytes(2**20)) for _ in range(100)]
    images[0].write_bytes(b"".join([meta_of(images[0]), *packed, squeeze.flush()]))
    ran = send(images[0], peer(receiver))
    assert ran.exit_code == 1, ran.output
    assert f"{images[0]}: not sent: it inflates to more than 64 MiB" in ran.output
    assert receiver.files() == []


CUTS = {
    "within the pixels": lambda content: content[:-1000],
    "before the last byte": lambda content: content[:-1],
    "before the pixels": lambda content: content[: content.index(b"\xe0\x7f\x10\x00")],
    "within the head of an element": lambda content: content[: content.index(b"\xe0\x7f\x10\x00") + 5],
    "within the file meta information": lambda content: content[:200],
    "within its first element": lambda content: content[:140],
}


@pytest.mark.parametrize("cut", CUTS)
def test_an_image_that_is_cut_off_is_named_and_not_sent(receiver: Receiver, images: list[Path], cut: str) -> None:
    content = images[3].read_bytes()
    images[3].write_bytes(CUTS[cut](content))
    ran = send(images[0].parent, peer(receiver))
    assert ran.exit_code == 1, ran.output
    assert f"{len(images) - 1} of {len(images)} files taken" in ran.output
    (line,) = [line for line in ran.output.splitlines() if str(images[3]) in line]
    assert line.startswith(f"  {images[3]}: not sent: it ")
    assert line.endswith("export it anew")
    assert len(receiver.files()) == len(images) - 1


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_structure_set_that_is_cut_off_is_not_sent(
    tmp_path: Path, images: list[Path], undefined: bool, share: float
) -> None:
    """A sequence that has no length of its own is left out as a whole by pydicom, without an error."""
    path = tmp_path / "rt.dcm"
    dataset = structure_set(read_series(images[0].parent))
    save_structure_set(dataset, path)
    dataset = pydicom.dcmread(path)
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True)
    content = path.read_bytes()
    assert not is_cut_off(content)
    path.write_bytes(content[: int(len(content) * share)])
    came: list[object] = []
    with answering(lambda n, event: came.append(n) or 0) as to:
        ran = send(path, to)
    path.unlink()  # all that are left are examined in the end
    assert (ran.exit_code, came) == (1, [])
    assert "not sent: it is cut off; export it anew" in ran.output


def test_no_cut_passes_for_the_whole(images: list[Path]) -> None:
    """Only the ends of elements, which no reader can tell from the end of a file, and zeros behind them pass."""
    content = images[0].read_bytes()
    at, ends = len(meta_of(images[0])), set[int]()
    while at < len(content):  # explicit VR little endian: tag, VR, a length of two bytes or of four
        is_long = content[at + 4 : at + 6] in (b"OW", b"SQ", b"OB", b"UN")
        length = int.from_bytes(content[at + 8 : at + 12] if is_long else content[at + 6 : at + 8], "little")
        at += (12 if is_long else 8) + length
        ends.add(at)
    assert max(ends) == len(content)
    steps = {*range(min(ends), max(ends - {len(content)}) + 50), *range(min(ends), len(content), 97)}
    passed = {n for n in steps | ends if not is_cut_off(content[:n])}
    assert passed >= ends
    assert not any(content[max(end for end in ends if end <= n) : n].strip(b"\0") for n in passed)
    assert not is_cut_off(content + bytes(100))


def test_a_folder_of_many_entries_is_searched(tmp_path: Path, receiver: Receiver, images: list[Path]) -> None:
    many = tmp_path / "many"
    many.mkdir()
    (many / "0").write_text("no image")
    for number in range(1, MANY):
        os.link(many / "0", many / str(number))
    os.link(images[0], many / "image")
    ran = send(many, peer(receiver))
    assert ran.exit_code == 0, ran.output
    assert f"{MANY} files are no DICOM files" in ran.output
    assert f"and {MANY - 10} more; --json names all of them" in ran.output
    assert "1 of 1 files taken" in ran.output
