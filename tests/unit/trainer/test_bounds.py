"""Archives that are made to hang or to fill the memory are told of, and the rest of them is read."""

from __future__ import annotations

import csv
import gzip
import os
import resource
import socket
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import survey_series
from contourd.errors import DatasetError
from contourd.system.folders import irregular
from tests.archives import found, write_csv, write_dicom, write_pddca
from tests.training import write_case
from trainer.bounds import MOST_ARRAY_BYTES, check_nrrd
from trainer.case import read_case
from trainer.curation.archive import Item, Kind
from trainer.curation.openkbp import read_patient as read_csv
from trainer.curation.pddca import read_patient as read_pddca
from trainer.curation.pseudonyms import PATIENTS_FILE, identify

pytestmark = pytest.mark.timeout(60)
GIB = 2**30


@pytest.fixture(autouse=True)
def little_memory():
    """What claims to be large must not be made room for."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def sparse(path: Path, head: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def claiming(path: Path, **shapes: tuple[int, ...]) -> None:
    """An .npz whose headers claim arrays of bytes that are not there."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(bytes(100))


@pytest.mark.parametrize("name", ["image.dcm", "case.npz", "ct.csv", "img.nrrd"])
def test_a_pipe_is_told_and_the_rest_is_read(tmp_path, name):
    write_case(tmp_path / "good.npz")
    os.mkfifo(tmp_path / name)
    items, refused = found(tmp_path)
    assert [item.name for item in items] == ["good"]
    assert [(r.name, r.reason) for r in refused] == [(name, "is a pipe, and not read")]


def test_a_socket_a_device_and_a_link_in_a_circle_are_told(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(folder)  # the path of a socket may have 107 bytes
        one.bind("socket")
        os.chdir(Path(__file__).parent)
        (folder / "circle").symlink_to(folder / "circle")
        (folder / "deep").symlink_to(folder)
        (folder / "null").symlink_to("/dev/null")
        items, refused = found(folder)
    assert items == []
    assert {r.name: r.reason for r in refused} == {
        "circle": "cannot be read: Too many levels of symbolic links",
        "deep": "is a link to a folder, and not followed; name that folder itself",
        "null": "is a device, and not read",
        "socket": "is a socket, and not read",
    }


@pytest.mark.parametrize("read", [read_csv, read_pddca])
def test_a_pipe_beside_an_image_is_told(tmp_path, read):
    kind = Kind.OPENKBP_CSV if read is read_csv else Kind.PDDCA
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "voxel_dimensions.csv").write_text("4\n4\n3\n")
    with pytest.raises(DatasetError, match="no regular file"):
        read(Item("a", "b", kind, (tmp_path / "pipe",), (), "b"))


def test_two_gigabytes_of_zeros_after_the_prefix_are_no_image(tmp_path):
    write_dicom(tmp_path / "good", "MRN-1")
    sparse(tmp_path / "large.dcm", bytes(128) + b"DICM", 2 * GIB)
    sparse(tmp_path / "small.dcm", bytes(128) + b"DICM", 2**20)
    items, refused = found(tmp_path)
    assert len(items) == 1
    told = {r.name: r.reason for r in refused}
    assert told.keys() == {"large.dcm", "small.dcm"}
    assert "it has 2048 MiB; of an image or a structure set at most 256 are read" in told["large.dcm"]
    assert "zeros" in told["small.dcm"] or "no DICOM" in told["small.dcm"]
    series, _ = survey_series(tmp_path)
    assert len(series) == 1


def test_the_largest_file_is_refused_by_its_size_alone(tmp_path):
    sparse(tmp_path / "large.dcm", bytes(128) + b"DICM", 2 * GIB)
    with pytest.raises(OSError, match="2048 MiB"):
        read_dicom(tmp_path / "large.dcm")


def test_arrays_that_claim_42_gigabytes_are_refused(tmp_path):
    claiming(tmp_path / "case.npz", hu=(42, 1000, 1000, 1000))
    with pytest.raises(DatasetError, match=r"its arrays claim 39 GiB, and at most 5 are read"):
        read_case(tmp_path / "case.npz")
    items, refused = found(tmp_path)
    assert items == []
    assert "claim 39 GiB" in refused[0].reason


def test_many_arrays_count_together(tmp_path):
    claiming(tmp_path / "case.npz", **{f"a{i}": (GIB,) for i in range(6)})
    with pytest.raises(DatasetError, match="claim 6 GiB"):
        read_case(tmp_path / "case.npz")


def test_what_is_packed_small_and_large_inside_is_refused(tmp_path):
    """A zip's member that says truthfully how large it is, and whose array says that it is small."""
    with zipfile.ZipFile(tmp_path / "case.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hu.npy", b"")
        archive.infolist()[0].file_size = MOST_ARRAY_BYTES + GIB
    with pytest.raises(DatasetError):
        read_case(tmp_path / "case.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", bytes(1000)])
def test_a_case_that_is_none_is_told(tmp_path, content):
    (tmp_path / "case.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"case\.npz"):
        read_case(tmp_path / "case.npz")


def nrrd_text(sizes: str, encoding: str = "raw", more: str = "") -> bytes:
    return (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\n"
        f"encoding: {encoding}\n{more}space origin: (0,0,0)\n\n"
    ).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(nrrd_text("5000 5000 5000"), "claim 931 GiB", id="claims much"),
        pytest.param(nrrd_text("9 9 9", more="data file: other.raw\n"), "another file", id="elsewhere"),
        pytest.param(nrrd_text("4 4 4", "gzip") + gzip.compress(bytes(10**7)), "longer than the 512 bytes", id="bomb"),
        pytest.param(nrrd_text("4 4 4", "bzip2") + b"BZh9", "bzip2", id="bzip2"),
        pytest.param(nrrd_text("4 4 4", "gzip") + b"\x1f\x8brubbish", "no NRRD volume", id="damaged"),
    ],
)
def test_an_nrrd_that_is_more_than_it_should_be_is_refused(tmp_path, content, told):
    write_pddca(tmp_path / "p")
    (tmp_path / "p" / "img.nrrd").write_bytes(content)
    with pytest.raises(DatasetError, match=told):
        read_pddca(found(tmp_path)[0][0])


def test_a_packed_nrrd_is_read(tmp_path):
    write_pddca(tmp_path / "p")
    check_nrrd(tmp_path / "p" / "img.nrrd")
    assert read_pddca(found(tmp_path)[0][0]).masks


@pytest.mark.parametrize("index", ["2097152", "-1", "99999999999999999999999", "1e3", "nan"])
def test_an_index_that_cannot_be_is_refused(tmp_path, index):
    write_csv(tmp_path / "pt_1")
    (tmp_path / "pt_1" / "Brainstem.csv").write_text(f",data\n{index},1\n")
    with pytest.raises(DatasetError, match=r"Brainstem\.csv"):
        read_csv(found(tmp_path)[0][0])


def test_a_text_without_end_is_refused(tmp_path):
    write_csv(tmp_path / "pt_1")
    sparse(tmp_path / "pt_1" / "ct.csv", b",data\n", 40 * GIB)
    with pytest.raises(DatasetError, match="longer than the 256 MiB"):
        read_csv(found(tmp_path)[0][0])


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
def test_no_patient_is_a_formula(tmp_path, name):
    item = Item("a", "1.2.3", Kind.DICOM, (tmp_path / "=folder" / "x.dcm",), (), name)
    identify([item], tmp_path)
    with (tmp_path / PATIENTS_FILE).open(newline="") as file:
        _, row = csv.reader(file)
    assert row[1] == f"'{name}"
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row)


def test_a_file_that_nobody_may_read_is_told(tmp_path):
    path = tmp_path / "closed"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        assert irregular(path) == ""
    else:
        assert irregular(path) == "cannot be read: permission denied"
    path.chmod(stat.S_IRUSR)
    assert irregular(path) == ""
