from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contourd.errors import SpoolError, SpoolFull
from contourd.spool.folder import Spool
from contourd.system.durable_files import write_durably


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_instance_is_stored_whole_under_a_name_of_ours(spool: Spool) -> None:
    relative = spool.store_instance([b"abc", memoryview(b"def")])
    assert re.fullmatch(r"incoming/\d{8}/[0-9a-f]{32}\.dcm", relative)
    assert (spool.root / relative).read_bytes() == b"abcdef"
    assert files(spool.root) == [relative]


def test_two_instances_never_share_a_name(spool: Spool) -> None:
    assert spool.store_instance([b"1"]) != spool.store_instance([b"1"])


def test_an_output_replaces_the_earlier_one_of_its_job(spool: Spool) -> None:
    assert spool.store_output(7, 1, b"first") == spool.store_output(7, 1, b"second") == "outgoing/7-c1.dcm"
    assert (spool.root / "outgoing/7-c1.dcm").read_bytes() == b"second"


def test_what_a_fenced_worker_writes_lies_beside_what_the_next_one_wrote(spool):
    assert spool.store_output(7, 2, b"the next one's") == "outgoing/7-c2.dcm"
    spool.store_output(7, 1, b"the late one's")
    assert (spool.root / "outgoing/7-c2.dcm").read_bytes() == b"the next one's"


def test_nothing_is_left_of_a_write_that_fails(spool: Spool) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(SpoolError, match="Input/output error") as caught:
        spool.store_instance(chunks())
    assert not isinstance(caught.value, SpoolFull)
    assert files(spool.root) == []


def test_a_full_disk_is_told_apart(spool: Spool) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SpoolFull, match="No space left"):
        spool.store_instance(chunks())
    assert files(spool.root) == []


def test_below_the_watermark_nothing_is_taken(tmp_path: Path) -> None:
    spool = Spool(tmp_path, min_free_bytes=10**18)
    with pytest.raises(SpoolFull, match=r"less than 1000000000\.0 GB are free"):
        spool.store_instance([b"x"])
    assert files(tmp_path) == []


def test_a_root_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"spool\.root .*file/spool cannot be used"):
        Spool(tmp_path / "file" / "spool")


def test_a_sweep_removes_only_what_is_half_written(spool: Spool) -> None:
    kept = spool.store_instance([b"x"])
    (spool.root / "partial" / "left").write_bytes(b"half")
    spool.sweep()
    assert files(spool.root) == [kept]


def test_everything_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survives a power cut: content to the disk, then the name, then the folder that holds the name."""
    final = tmp_path / "final"
    seen: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink().name
        seen.append(f"{target} {'named' if final.exists() else 'unnamed'}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_durably(tmp_path / "partial", final, [b"x"])
    assert seen == ["partial unnamed", f"{tmp_path.name} named"]


def test_a_day_folder_is_durable_before_the_first_file_is_in_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().parent.name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    spool.store_instance([b"x"])
    assert seen == ["spool", "partial", "incoming"]  # incoming itself; the file; the day's folder
    seen.clear()
    spool.store_instance([b"x"])
    assert seen == ["partial", "incoming"]


def test_many_threads_store_at_once(spool: Spool) -> None:
    stored: list[str] = []
    threads = [threading.Thread(target=lambda: stored.append(spool.store_instance([b"x" * 1000]))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(stored)) == 16
    assert files(spool.root) == sorted(stored)


def test_a_pseudonym_is_the_same_at_one_site_and_another_elsewhere(tmp_path: Path) -> None:
    here, again, elsewhere = Spool(tmp_path / "a"), Spool(tmp_path / "a"), Spool(tmp_path / "b")
    assert here.pseudonym("ID-1") == again.pseudonym("ID-1")
    assert here.pseudonym("ID-1") != here.pseudonym("ID-2")
    assert here.pseudonym("ID-1") != elsewhere.pseudonym("ID-1")
    assert re.fullmatch(r"[0-9a-f]{10}", here.pseudonym("ID-1"))
    assert here.pseudonym("") == ""
    assert (tmp_path / "a" / "site.key").stat().st_mode & 0o777 == 0o600


def test_the_folders_of_past_days_go_when_they_are_empty(spool: Spool) -> None:
    for name in ("20260101", "20260102", "20260103"):
        (spool.root / "incoming" / name).mkdir()
    (spool.root / "incoming" / "20260102" / "x.dcm").touch()
    assert spool.remove_empty_days("20260103") == ["20260101"]
    assert sorted(path.name for path in (spool.root / "incoming").iterdir()) == ["20260102", "20260103"]


def test_a_day_folder_that_somebody_removed_is_made_again(spool: Spool) -> None:
    first = spool.store_instance([b"x"])
    spool.remove(first)
    (spool.root / first).parent.rmdir()
    with pytest.raises(SpoolError, match="No such file"):
        spool.store_instance([b"x"])
    assert (spool.root / spool.store_instance([b"x"])).exists()


def test_a_probe_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    spool.probe(1000)
    assert files(spool.root) == []
    with pytest.raises(SpoolFull):
        Spool(tmp_path / "full", min_free_bytes=10**18).probe(1000)


def test_a_site_key_that_cannot_be_read_refuses_the_image_and_is_not_replaced(spool: Spool) -> None:
    (spool.root / "site.key").mkdir()
    with pytest.raises(SpoolError, match="Is a directory"):
        spool.pseudonym("ID-1")


def test_structure_sets_are_found_by_their_job(spool: Spool) -> None:
    spool.store_output(7, 1, b"x")
    spool.store_output(7, 1, b"y", part=2)
    spool.store_output(71, 12, b"z")
    for name in ("mine.dcm", "7-2.dcm"):  # the second by a version before tokens
        (spool.root / "outgoing" / name).touch()
    assert spool.outputs_by_job() == {
        7: ["outgoing/7-2.dcm", "outgoing/7-c1-2.dcm", "outgoing/7-c1.dcm"],
        71: ["outgoing/71-c12.dcm"],
    }
    assert spool.outputs(8) == []


def test_a_folder_in_the_place_of_a_file_keeps_nothing_else_from_being_removed(spool: Spool, caplog) -> None:
    path = spool.store_instance([b"image"])
    (spool.root / path).unlink()
    (spool.root / path).mkdir()
    spool.remove(path)
    assert caplog.messages == [f"{path} is a folder where a file was; remove it by hand"]
    assert (spool.root / path).is_dir()
