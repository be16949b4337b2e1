"""What is read where a file was: a regular file, and nothing that would never end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import read_instance
from contourd.dicom.reading.integrity import require_intact
from contourd.dicom.reading.patient_identity import read_patient
from contourd.dicom.reading.pixels import same_image
from contourd.dicom.reading.received_images import read_received
from contourd.errors import SeriesUnusable
from contourd.intake.read_ahead import ReadAhead
from contourd.settings import Destination
from contourd.system.regular_files import read_regular
from tests.phantom import write_series


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": _socket,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_suffix(".pipe")), path.symlink_to(path.with_suffix(".pipe"))),
    "nothing": lambda path: None,
}


@pytest.fixture(params=REPLACEMENTS)
def replaced(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """An image in the place of which there is something else, and its hash before."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = next(write_series(tmp_path / "ct").iterdir())
    sha256 = stored_sha256(path)
    assert len(sha256) == 64
    path.unlink()
    REPLACEMENTS[request.param](path)
    return path, sha256


@pytest.mark.timeout(20)
def test_what_is_no_file_any_more_is_told_and_not_waited_for(replaced: tuple[Path, str]) -> None:
    path, sha256 = replaced
    with pytest.raises(OSError, match=r"no regular file|No such|Is a directory"):
        read_regular(path)
    with pytest.raises(OSError, match=r"no regular file|No such|Is a directory"):
        read_dicom(path)
    assert stored_sha256(path) == ""
    for read in (read_instance, read_patient):
        with pytest.raises(SeriesUnusable):
            read(path)
    with pytest.raises(SeriesUnusable, match="1 of 1 received images"):
        require_intact({path: sha256})
    with pytest.raises(SeriesUnusable, match="1 of 1 received images"):
        read_received({path: sha256})
    assert not same_image(path, path)
    ahead = ReadAhead()
    ahead.follow({path: sha256}, 1.0)
    assert ahead.take({path: sha256}) == {}
    ahead.clear()


@pytest.mark.timeout(20)
def test_a_structure_set_that_is_no_file_any_more_is_not_waited_for(replaced: tuple[Path, str]) -> None:
    outcome = StorageSCU("CONTOURD").deliver(replaced[0], Destination(name="pacs", ae_title="P", host="h", port=1))
    assert outcome.kind == OutcomeKind.REFUSED
    assert "cannot be read" in outcome.reason


def test_a_received_image_is_no_link_even_to_the_same_image(tmp_path: Path) -> None:
    first = next(write_series(tmp_path / "ct").iterdir())
    link = tmp_path / "link.dcm"
    link.symlink_to(first)
    assert stored_sha256(link) == ""
    assert read_instance(link).sop_instance_uid == read_instance(first).sop_instance_uid  # an archive may have links
