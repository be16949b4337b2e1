"""A small disk that can be filled, made read-only and freed: a tmpfs of its own, for which root must mount it.

A test that needs one is skipped where that is not allowed, and fails there if CONTOURD_REQUIRE_PEERS=1 (CI).
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.peers import require

MOUNT_S = 30.0
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Disk:
    """A file system of a few MB."""

    root: Path

    @property
    def filler(self) -> Path:
        return self.root / "filler"

    def fill(self) -> None:
        """Use up every block."""
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            self._write_on()

    def _write_on(self) -> NoReturn:
        with self.filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(PAGE_BYTES))

    def free(self) -> None:
        """Give it all back."""
        self.filler.unlink(missing_ok=True)


def _mount(*arguments: str | Path) -> None:
    done = subprocess.run(
        [require("mount"), *map(str, arguments)], capture_output=True, text=True, timeout=MOUNT_S, check=False
    )
    if done.returncode:
        reason = f"a file system cannot be mounted: {done.stderr.strip()}"
        if os.environ.get("CONTOURD_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def _unmount(root: Path) -> None:
    subprocess.run([require("umount"), str(root)], check=True, timeout=MOUNT_S)


@contextmanager
def small_disk(root: Path, size_mb: int) -> Iterator[Disk]:
    root.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tmpfs", root)
    try:
        yield Disk(root)
    finally:
        _unmount(root)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Let nothing be written in a folder; nobody may have a file of it open for writing."""
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,bind,ro", folder)
        yield folder
    finally:
        _unmount(folder)
