"""Which series of a folder `contourd contour` takes, and what a file does to it that cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from contourd.cli.contouring import choose_series
from contourd.dicom.reading.instance import survey_series
from contourd.errors import NodeError, SeriesUnusable
from tests.phantom import write_series


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for name in ("p1", "p2"):
        write_series(folder / name)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Two series; the second lacks its uppermost slice, so that the first is the longer one."""
    shutil.copytree(written, tmp_path / "ct")
    (tmp_path / "ct" / "p2" / "CT_0023.dcm").unlink()
    return tmp_path / "ct"


def chosen(folder: Path, series_uid: str | None = None) -> str:
    found, unreadable = survey_series(folder)
    return choose_series(found, unreadable, folder, series_uid)[0].patient_id


def uid_of(folder: Path) -> str:
    (uid,) = survey_series(folder)[0]
    return uid


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_a_foreign_file_that_cannot_be_read_is_told_and_costs_nothing(folder, capsys) -> None:
    wanted = uid_of(folder / "p2")
    cut(folder / "p1" / "CT_0003.dcm", 3000)  # in its pixels
    cut(folder / "p1" / "CT_0004.dcm", 500)  # before it says of which series it is
    assert chosen(folder, wanted) == "ID-p2"
    told = capsys.readouterr().err
    assert "not read: CT_0003.dcm is cut off: 3000 bytes of " in told
    assert f"(of series {uid_of(folder / 'p1')})" in told
    assert "(of which series cannot be told; 23 images are taken)" in told


def test_a_file_of_the_series_itself_refuses_it(folder) -> None:
    wanted = uid_of(folder / "p2")
    cut(folder / "p2" / "CT_0003.dcm", 3000)
    with pytest.raises(SeriesUnusable, match=r"CT_0003\.dcm is cut off"):
        chosen(folder, wanted)
    assert chosen(folder) == "ID-p1"


def test_without_a_name_one_that_may_be_of_it_refuses_it(folder) -> None:
    cut(folder / "p2" / "CT_0003.dcm", 500)
    with pytest.raises(SeriesUnusable, match=r"CT_0003\.dcm"):
        chosen(folder)


def test_a_series_of_which_nothing_can_be_read_gives_the_reason(folder) -> None:
    wanted = uid_of(folder / "p2")
    for path in (folder / "p2").iterdir():
        cut(path, 3000)
    with pytest.raises(SeriesUnusable, match="is cut off"):
        chosen(folder, wanted)
    with pytest.raises(NodeError, match="holds no series"):
        chosen(folder, "1.2.3")
