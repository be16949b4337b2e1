"""The spool is its owner's alone, and one contourd's at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contourd.errors import NodeError, SpoolError
from contourd.spool.access import close_to_others, is_served, keep_private, lock_spool
from contourd.spool.folder import Spool
from contourd.store.database import Database
from tests.permissions import too_open


@pytest.fixture
def lax_umask():
    """What a careless shell would have; nothing may depend on it."""
    before = os.umask(0)
    yield
    os.umask(before)


def fill(root: Path) -> None:
    spool = Spool(root)
    spool.store_instance([b"image"])
    spool.store_output(1, 1, b"structure set")
    spool.pseudonym("patient")
    lock_spool(root).close()


LOCKING = "from pathlib import Path; from contourd.spool.access import lock_spool; lock_spool(Path({!r}))"


@pytest.mark.parametrize("removed", [False, True])
def test_another_process_is_kept_out_though_the_lock_file_was_removed(tmp_path, removed):
    command = [sys.executable, "-c", LOCKING.format(str(tmp_path))]
    with lock_spool(tmp_path):
        if removed:
            (tmp_path / "contourd.lock").unlink()
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "another contourd already serves the spool" in ran.stderr
        assert is_served(tmp_path)
        lock = tmp_path / "contourd.lock"
        lock.unlink(missing_ok=True)
        assert is_served(tmp_path)
    assert not is_served(tmp_path)
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def test_a_pipe_in_the_place_of_the_lock_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "contourd.lock")
    with pytest.raises(SpoolError, match=r"contourd\.lock is no file; remove it"):
        lock_spool(tmp_path)
    assert not is_served(tmp_path)


@pytest.mark.usefixtures("lax_umask")
def test_the_spool_makes_everything_private(tmp_path):
    root = tmp_path / "missing" / "spool"
    fill(root)
    assert too_open(root) == {}


@pytest.mark.usefixtures("lax_umask")
def test_the_database_is_private_with_its_journals(tmp_path):
    keep_private()
    database = Database(f"sqlite:///{tmp_path / 'contourd.sqlite'}")
    database.upgrade()
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    database.close()
    assert found == {"contourd.sqlite": 0o600, "contourd.sqlite-wal": 0o600, "contourd.sqlite-shm": 0o600}


@pytest.mark.usefixtures("lax_umask")
def test_a_spool_that_was_open_is_closed(tmp_path, caplog):
    root = tmp_path / "spool"
    fill(root)
    (root / "contourd.sqlite").touch()
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    close_to_others(root)
    assert too_open(root) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    close_to_others(root)  # nothing to do, nothing to tell
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("lax_umask")
@pytest.mark.parametrize("beside", [[], ["lost+found"]])
def test_an_empty_folder_is_closed(tmp_path, beside):
    root = tmp_path / "spool"
    root.mkdir(mode=0o755)
    for name in beside:
        (root / name).mkdir(mode=0o700)
    close_to_others(root)
    assert too_open(root) == {}


@pytest.mark.usefixtures("lax_umask")
def test_a_folder_of_others_is_left_alone(tmp_path):
    root = tmp_path / "home"
    root.mkdir(mode=0o755)
    (root / "letter.txt").touch()
    with pytest.raises(SpoolError, match="give it a folder of its own"):
        close_to_others(root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "letter.txt").stat().st_mode) == 0o666


@pytest.mark.usefixtures("lax_umask")
def test_what_a_link_points_to_is_left_alone(tmp_path):
    root, outside = tmp_path / "spool", tmp_path / "outside"
    fill(root)
    outside.mkdir(mode=0o755)
    (root / "incoming" / "link").symlink_to(outside)
    root.chmod(0o755)
    close_to_others(root)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_one_at_a_time(tmp_path):
    with lock_spool(tmp_path), pytest.raises(NodeError, match="another contourd already serves the spool"):
        lock_spool(tmp_path)
    lock_spool(tmp_path).close()


def test_a_spool_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(SpoolError, match="cannot be used: No such file"):
        lock_spool(tmp_path / "absent")
