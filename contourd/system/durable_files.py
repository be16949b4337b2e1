"""Files and folders that are whole or absent, whatever happens: fsync, rename, and fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Of new files: for their owner alone, or as the umask has it.
PRIVATE, ORDINARY = 0o600, 0o666


def make_private_folder(folder: Path) -> None:
    """Make a folder for its owner alone, with those above it that are missing."""
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def write_durably(partial: Path, final: Path, chunks: Iterable[bytes | memoryview], mode: int = ORDINARY) -> None:
    """Write a file so that it is whole or absent, whatever happens: fsync, rename, fsync of the folder.

    Parameters
    ----------
    partial
        Temporary name, on the same file system as ``final``.
    mode
        Of a new file, before the umask.
    """
    write_fsynced(partial, chunks, mode)
    partial.replace(final)
    fsync_path(final.parent)


def move_folder_durably(partial: Path, final: Path) -> None:
    """Give a written folder its name, so that it is whole or absent; ``final`` must be absent or empty."""
    fsync_path(partial)
    partial.rename(final)
    fsync_path(final.parent)


def write_fsynced(path: Path, chunks: Iterable[bytes | memoryview], mode: int) -> None:
    """Write a file and fsync it, under the name that it has; its folder is not."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """Make what a file holds, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
