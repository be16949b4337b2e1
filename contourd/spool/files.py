"""Objects as files below a folder: of this host alone, or of several that have it mounted by NFS.

A file is written under a temporary name, fsynced, renamed, and its folder fsynced. Where several hosts write it is
given its name by a link, which fails where the name is in use. On NFS this needs: close-to-open consistency, links and
renames that are atomic within the file system, an fsync that reaches the server's disk, and flock that holds between
the hosts.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from contourd.errors import ObjectExists, ObjectMissing, SpoolError, SpoolFull
from contourd.spool.objects import Chunks, ListedObject
from contourd.system.durable_files import PRIVATE, fsync_path, make_private_folder, write_durably, write_fsynced
from contourd.system.regular_files import open_regular

log = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
PARTIAL = "partial"
# Of an NFS server that removed, or was told of, a file since this host looked at it.
STALE_TRIES = 3


class FolderStore:
    """Files below a folder that is this host's alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._durable: set[Path] = set()

    def partial(self) -> Path:
        """Return a temporary name, which no other process uses."""
        return self.root / PARTIAL / uuid4().hex

    def sweep(self) -> None:
        """Remove what an earlier run left half written; raises SpoolError."""
        try:
            for path in (self.root / PARTIAL).iterdir():
                if self._is_left_over(path):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise SpoolError(f"{self.root} cannot be written: {error.strerror}") from error

    def _is_left_over(self, path: Path) -> bool:  # noqa: ARG002
        return True

    def put(self, name: str, chunks: Chunks) -> None:
        """Write a file durably under a name that is not in use."""
        if (self.root / name).exists():
            raise ObjectExists(f"{self.root / name} is there already")
        self.replace(name, chunks)

    def replace(self, name: str, chunks: Chunks) -> None:
        """Write a file durably, in the place of one that has its name; raises SpoolError."""
        with self._written(name) as (partial, final):
            write_durably(partial, final, chunks, PRIVATE)

    def copy(self, name: str, chunks: Chunks) -> None:
        """Write a file whole or not at all, but not durably: a copy of what lies elsewhere; raises SpoolError."""
        with self._written(name) as (partial, final):
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as file:
                file.writelines(chunks)
            partial.replace(final)

    @contextmanager
    def _written(self, name: str) -> Iterator[tuple[Path, Path]]:
        """Give the temporary name to write to and the one that it takes; what is left half written goes."""
        partial, final = self.partial(), self.root / name
        try:
            self._make_folder(final.parent)
            yield partial, final
        except FileExistsError as error:
            raise ObjectExists(f"{final} is there already") from error
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            with self._lock:
                self._durable.discard(final.parent)  # somebody may have removed it
            raise self.refusal(error) from error

    def get(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Read a file, or a part of it."""
        for tries_left in reversed(range(STALE_TRIES)):
            try:
                return self._read(self.root / name, offset, size_bytes)
            except FileNotFoundError as error:
                raise ObjectMissing(f"{self.root / name} is not there") from error
            except OSError as error:
                if error.errno != errno.ESTALE or not tries_left:
                    raise SpoolError(f"{self.root / name} cannot be read: {error.strerror}") from error
        raise AssertionError(name)

    def _read(self, path: Path, offset: int, size_bytes: int | None) -> bytes:
        with open_regular(path) as file:
            file.seek(offset)
            content = file.read(-1 if size_bytes is None else size_bytes)
        if size_bytes is not None and len(content) < size_bytes:
            raise SpoolError(f"{path} is shorter than it was: {offset + len(content)} bytes")
        return content

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Go through the files below a folder, in the order of their names."""
        try:
            for path in sorted((self.root / prefix).rglob("*")):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    if path.is_file():
                        yield ListedObject(str(path.relative_to(self.root)), found.st_size, found.st_mtime)
        except OSError as error:
            raise SpoolError(f"{self.root / prefix} cannot be read: {error.strerror}") from error

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            (self.root / name).unlink(missing_ok=True)
        except IsADirectoryError:  # not ours, and no reason to keep everything else
            log.warning("%s is a folder where a file was; remove it by hand", name, extra={"action": "spool"})
        except OSError as error:
            raise SpoolError(f"{self.root}/{name} cannot be removed: {error.strerror}") from error

    def remove_folder(self, folder: Path) -> bool:
        """Remove a folder, if it is empty; says whether it was."""
        with self._lock, suppress(OSError):  # it is not empty
            folder.rmdir()
            self._durable.discard(folder)
            return True
        return False

    def refusal(self, error: OSError) -> SpoolError:
        """Say why the folder takes no file."""
        kind = SpoolFull if error.errno in NO_SPACE else SpoolError
        return kind(f"{self.root} cannot take a file: {error.strerror}")

    def _make_folder(self, folder: Path) -> None:
        """Make a folder that survives a power cut; the lock keeps a second thread from using it before it does."""
        with self._lock:
            if folder not in self._durable:
                make_private_folder(folder)
                fsync_path(folder.parent)
                self._durable.add(folder)


class SharedFolderStore(FolderStore):
    """Files below a folder that several hosts write to at the same time.

    Parameters
    ----------
    host
        The name of this one.
    """

    def __init__(self, root: Path, host: str) -> None:
        super().__init__(root)
        self.host = host

    def partial(self) -> Path:
        """Return a temporary name, which tells whose it is."""
        return self.root / PARTIAL / f"{self.host}-{uuid4().hex}"

    def _is_left_over(self, path: Path) -> bool:
        return path.name.rpartition("-")[0] == self.host

    def put(self, name: str, chunks: Chunks) -> None:
        """Write a file durably; of two hosts that give one name, one is told that the name is in use."""
        with self._written(name) as (partial, final):
            write_fsynced(partial, chunks, PRIVATE)
            try:
                os.link(partial, final)
            except FileExistsError:
                if not partial.samefile(final):  # else an answer was lost, and the call went out twice
                    partial.unlink()
                    raise
            fsync_path(final.parent)
            partial.unlink()
