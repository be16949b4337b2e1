"""What lies below a folder is found however deep it is, and what is no file is named."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contourd.dicom.reading.instance import survey_series
from contourd.system.folders import files_below, walk
from tests.archives import found
from tests.phantom import write_series

LEVELS = 1000


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Make folders in one another, with a file in the last; Python's own functions cannot even remove them."""
    root = tmp_path / "deep"
    nest(root, "d", LEVELS)
    yield root
    subprocess.run(["rm", "-rf", root], check=True)


def nest(root: Path, name: str, levels: int) -> None:
    root.mkdir()
    at = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


def test_a_thousand_levels_are_searched_to_the_last(deep: Path) -> None:
    ((last,), left_out) = files_below(deep)
    assert (last.name, len(last.relative_to(deep).parts), left_out) == ("last", LEVELS + 1, {})
    assert survey_series(deep) == ({}, {})
    assert found(deep)[0] == []  # an archive for the trainer


def test_a_path_that_the_system_does_not_take_is_told(tmp_path: Path) -> None:
    nest(tmp_path / "long", "n" * 200, 30)
    files, left_out = files_below(tmp_path)
    assert files == ()
    ((path, reason),) = left_out.items()
    assert len(str(path)) > 4096 - 200
    assert reason == "the folder cannot be read: File name too long"
    items, refused = found(tmp_path)
    assert (items, [r.reason for r in refused]) == ([], [reason])
    subprocess.run(["rm", "-rf", tmp_path / "long"], check=True)


def test_links_are_no_way_round_in_a_circle(tmp_path: Path) -> None:
    series = write_series(tmp_path / "ct")
    (series / "up").symlink_to(tmp_path)
    (series / "itself").symlink_to(series / "itself")
    (series / "image").symlink_to(min(series.glob("*.dcm")))
    files, left_out = files_below(tmp_path)
    assert files == (*sorted(series.glob("*.dcm")), series / "image")
    assert left_out == {
        series / "itself": "cannot be read: Too many levels of symbolic links",
        series / "up": "is a link to a folder, and not followed; name that folder itself",
    }


def test_pipes_sockets_and_devices_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        assert files_below(tmp_path) == (
            (),
            {
                tmp_path / "device": "is a device, and not read",
                tmp_path / "pipe": "is a pipe, and not read",
                tmp_path / "socket": "is a socket, and not read",
            },
        )


def test_a_folder_is_left_out_where_the_caller_says_so(tmp_path: Path) -> None:
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
    seen = []
    for at, folders, _ in walk(tmp_path, lambda path, reason: pytest.fail(f"{path} {reason}")):
        seen.append(str(at.relative_to(tmp_path)))
        if at.name == "a":
            folders.clear()
    assert seen == [".", "a", "c"]
