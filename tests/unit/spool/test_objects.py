"""What every place behind the seam keeps to: a folder, a folder that hosts share, a store that speaks S3."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from contourd.errors import ObjectExists, ObjectMissing, SpoolError
from contourd.spool.files import FolderStore, SharedFolderStore
from contourd.spool.objects import ObjectStore

PLACES = ("folder", "shared folder", "s3")


@pytest.fixture(params=PLACES)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        opened: ObjectStore = request.getfixturevalue("bucket").open()
        return opened
    (tmp_path / "partial").mkdir()
    return FolderStore(tmp_path) if request.param == "folder" else SharedFolderStore(tmp_path, "ct1")


def names(objects: ObjectStore, prefix: str) -> list[str]:
    return [found.name for found in objects.list(prefix)]


def test_what_was_put_is_got_whole_and_in_parts(objects: ObjectStore) -> None:
    objects.put("series/1.tar", [b"abc", memoryview(b"defg")])
    assert objects.get("series/1.tar") == b"abcdefg"
    assert objects.get("series/1.tar", 2, 3) == b"cde"
    assert objects.get("series/1.tar", 5) == b"fg"


def test_a_name_is_never_given_twice(objects: ObjectStore) -> None:
    objects.put("series/1.tar", [b"first"])
    with pytest.raises(ObjectExists):
        objects.put("series/1.tar", [b"second"])
    assert objects.get("series/1.tar") == b"first"
    assert names(objects, "series") == ["series/1.tar"]


def test_of_writers_of_one_name_one_is_first_and_the_others_are_told(objects: ObjectStore) -> None:
    if type(objects) is FolderStore:
        pytest.skip("a folder of one host alone: its names are made for one writer each")
    told, barrier = list[str](), threading.Barrier(6)

    def write(content: bytes) -> None:
        barrier.wait(30)
        try:
            objects.put("site.key", [content])
            told.append("first")
        except ObjectExists:
            told.append("second")

    threads = [threading.Thread(target=write, args=(bytes([number]) * 1000,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["first", *["second"] * 5]
    assert len(set(objects.get("site.key"))) == 1


def test_what_is_not_there_is_told(objects: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        objects.get("series/none.tar")
    with pytest.raises(ObjectMissing):
        objects.get("series/none.tar", 3, 4)
    objects.delete("series/none.tar")
    assert names(objects, "series") == []


def test_what_is_below_a_folder_is_listed_and_deleted(objects: ObjectStore) -> None:
    for name in ("series/b.tar", "series/a.tar", "seriesly", "outgoing/1.dcm"):
        objects.put(name, [b"12345"])
    assert sorted(names(objects, "series")) == ["series/a.tar", "series/b.tar"]
    assert {found.size_bytes for found in objects.list("series")} == {5}
    objects.delete("series/a.tar")
    assert names(objects, "series") == ["series/b.tar"]


def test_a_part_that_is_not_there_is_never_half_returned(objects: ObjectStore) -> None:
    objects.put("series/1.tar", [b"abc"])
    with pytest.raises(SpoolError):
        objects.get("series/1.tar", 1, 10)
