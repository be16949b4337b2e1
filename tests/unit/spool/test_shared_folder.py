"""One folder, several hosts: process trees that have nothing in common but the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contourd.errors import NodeError, ObjectExists
from contourd.spool.access import is_served, lock_spool
from contourd.spool.files import SharedFolderStore
from contourd.spool.folder import Spool

HOST = """
import sys
from pathlib import Path
from contourd.spool.files import SharedFolderStore
from contourd.spool.folder import Spool
root, host, images = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
spool = Spool(root, host=host, files=SharedFolderStore(root, host))
print(spool.pseudonym("ID-1"))
for number in range(images):
    print(spool.store_instance([host.encode(), str(number).encode()]))
"""


def spool_of(root: Path, host: str) -> Spool:
    return Spool(root, host=host, files=SharedFolderStore(root, host))


def test_two_hosts_write_to_one_folder_at_once_and_have_one_key(tmp_path: Path) -> None:
    hosts = {
        host: subprocess.Popen(
            [sys.executable, "-c", HOST, str(tmp_path / "spool"), host, "40"], stdout=subprocess.PIPE, text=True
        )
        for host in ("ct1", "ct2")
    }
    told = {host: running.communicate(timeout=60)[0].split() for host, running in hosts.items()}
    assert {running.returncode for running in hosts.values()} == {0}
    assert told["ct1"][0] == told["ct2"][0]
    for host, (_, *paths) in told.items():
        assert len(set(paths)) == 40
        assert {(tmp_path / "spool" / path).read_bytes() for path in paths} == {
            f"{host}{number}".encode() for number in range(40)
        }
        assert all(spool_of(tmp_path / "spool", host).received_here(path) for path in paths)
        assert not any(spool_of(tmp_path / "spool", "ct3").received_here(path) for path in paths)
    assert list((tmp_path / "spool" / "partial").iterdir()) == []


def test_a_host_sweeps_its_own_leftovers_alone(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, "ct1")
    for name in ("ct1-0123", "ct2-4567", "ct1-2-89ab"):
        (tmp_path / "partial" / name).touch()
    spool.sweep()
    assert sorted(path.name for path in (tmp_path / "partial").iterdir()) == ["ct1-2-89ab", "ct2-4567"]


def test_each_host_takes_its_own_lock_and_nobody_the_whole_meanwhile(tmp_path: Path) -> None:
    with lock_spool(tmp_path, "ct1"), lock_spool(tmp_path, "ct2"):
        assert is_served(tmp_path)
        for again in ("ct1", ""):
            with pytest.raises(NodeError, match="another contourd already serves"):
                lock_spool(tmp_path, again)
    assert not is_served(tmp_path)
    with lock_spool(tmp_path):
        assert is_served(tmp_path)
        with pytest.raises(NodeError, match="another contourd already serves"):
            lock_spool(tmp_path, "ct1")


def test_a_name_that_another_host_gave_meanwhile_is_not_taken_from_it(tmp_path: Path) -> None:
    ours, theirs = SharedFolderStore(tmp_path, "ct1"), SharedFolderStore(tmp_path, "ct2")
    (tmp_path / "partial").mkdir()
    theirs.put("series/1.tar", [b"theirs"])
    with pytest.raises(ObjectExists, match="is there already"):
        ours.put("series/1.tar", [b"ours"])
    assert theirs.get("series/1.tar") == b"theirs"
    assert list((tmp_path / "partial").iterdir()) == []


def test_an_answer_of_the_server_that_was_lost_is_no_second_writer(tmp_path: Path, monkeypatch) -> None:
    """NFS repeats a call whose answer did not come: the link is there then, and is this very file."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    (tmp_path / "partial").mkdir()
    monkeypatch.setattr(os, "link", twice)
    SharedFolderStore(tmp_path, "ct1").put("outgoing/1.dcm", [b"structure set"])
    assert (tmp_path / "outgoing" / "1.dcm").read_bytes() == b"structure set"
    assert list((tmp_path / "partial").iterdir()) == []
