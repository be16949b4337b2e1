"""The durable file store. Paths come from our own ids, never from a received UID.

A file is written under a temporary name, fsynced, renamed, and its folder fsynced: once a store returned it survives a
power cut, and no reader ever sees half of it.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from contourd.errors import SpoolError, SpoolFull
from contourd.system.durable_files import PRIVATE, fsync_path, make_private_folder, write_durably, write_fsynced
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
INCOMING = "incoming"
OUTGOING = "outgoing"
PARTIAL = "partial"


class Spool:
    """A folder with ``incoming``, ``outgoing`` and ``partial``.

    Parameters
    ----------
    root
        Made if it is not there.
    min_free_bytes
        Below this much free space nothing more is taken.
    """

    def __init__(self, root: Path, min_free_bytes: int = 0) -> None:
        self.root = root
        self.min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._durable: set[Path] = set()
        self._key = b""
        is_new = not root.exists()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' images: not for every user of the machine
            for name in (INCOMING, OUTGOING, PARTIAL):
                make_private_folder(root / name)
            fsync_path(root)
            if is_new:
                fsync_path(root.parent)
        except OSError as error:
            raise SpoolError(f"spool.root {root} cannot be used: {error.strerror}") from error

    def sweep(self) -> None:
        """Remove what an earlier run left half written; nothing of it was acknowledged.

        Raises
        ------
        SpoolError
            The file system refuses.
        """
        try:
            for path in (self.root / PARTIAL).iterdir():
                path.unlink(missing_ok=True)
        except OSError as error:
            raise SpoolError(f"{self.root} cannot be written: {error.strerror}") from error

    def remove(self, relative: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        SpoolError
            The file system refuses.
        """
        try:
            (self.root / relative).unlink(missing_ok=True)
        except IsADirectoryError:  # not ours, and no reason to keep everything else
            log.warning("%s is a folder where a file was; remove it by hand", relative, extra={"action": "spool"})
        except OSError as error:
            raise SpoolError(f"{self.root}/{relative} cannot be removed: {error.strerror}") from error

    def remove_empty_days(self, before: str) -> list[str]:
        """Remove the folders of the days before one (YYYYMMDD) that hold nothing more; returns their names."""
        removed = []
        for folder in sorted((self.root / INCOMING).iterdir()):
            if folder.is_dir() and folder.name < before:
                with self._lock, suppress(OSError):  # it is not empty
                    folder.rmdir()
                    self._durable.discard(folder)
                    removed.append(folder.name)
        return removed

    def outputs_by_job(self) -> dict[int, list[str]]:
        """Return the structure sets that are there: job -> relative paths."""
        found: dict[int, list[str]] = {}
        for path in sorted((self.root / OUTGOING).glob("*.dcm")):
            number = path.stem.partition("-")[0]
            if number.isdecimal():
                found.setdefault(int(number), []).append(f"{OUTGOING}/{path.name}")
        return found

    def outputs(self, job_id: int) -> list[str]:
        """Return the relative paths of a job's structure sets."""
        return self.outputs_by_job().get(job_id, [])

    def incoming(self, until: float) -> list[str]:
        """Return the relative paths of the instances that were written before a time (seconds since the epoch)."""
        found = []
        for path in sorted((self.root / INCOMING).glob("*/*.dcm")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < until:
                    found.append(f"{INCOMING}/{path.parent.name}/{path.name}")
        return found

    def probe(self, size_bytes: int) -> None:
        """Write and remove a file of a size; raises SpoolError where that cannot be done."""
        path = f"{PARTIAL}/{uuid4().hex}"
        self._store(path, [bytes(size_bytes)])
        self.remove(path)

    def free_bytes(self) -> int:
        """Return the free space of the spool's file system."""
        return shutil.disk_usage(self.root).free

    def has_room(self) -> bool:
        """Return whether there is more free space than must be left."""
        try:
            return self.free_bytes() >= self.min_free_bytes
        except OSError:
            return False

    def store_instance(self, chunks: Iterable[bytes | memoryview]) -> str:
        """Store a received instance and return its path relative to the root.

        Parameters
        ----------
        chunks
            The bytes of the file.

        Raises
        ------
        SpoolFull
            No space is left.
        SpoolError
            The file system refuses.
        """
        relative = f"{INCOMING}/{datetime.now(UTC):%Y%m%d}/{uuid4().hex}.dcm"
        self._store(relative, chunks)
        return relative

    def store_output(self, job_id: int, token: int, content: bytes, part: int = 1) -> str:
        """Store one of a job's structure sets; returns its relative path.

        Parameters
        ----------
        token
            Of the claim under which it was made: what a worker writes that hung until another took its place lies
            beside the other's, and never in its place.

        Raises
        ------
        SpoolError
            As for an instance.
        """
        relative = f"{OUTGOING}/{job_id}-c{token}" + (".dcm" if part == 1 else f"-{part}.dcm")
        self._store(relative, [content])
        return relative

    def _store(self, relative: str, chunks: Iterable[bytes | memoryview]) -> None:
        if not self.has_room():
            raise SpoolFull(f"less than {self.min_free_bytes / 1e9:.1f} GB are free in {self.root}; make room")
        partial, final = self.root / PARTIAL / uuid4().hex, self.root / relative
        try:
            self._make_folder(final.parent)
            write_durably(partial, final, chunks, PRIVATE)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            with self._lock:
                self._durable.discard(final.parent)  # somebody may have removed it
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> SpoolError:
        kind = SpoolFull if error.errno in NO_SPACE else SpoolError
        return kind(f"{self.root} cannot take a file: {error.strerror}")

    def _make_folder(self, folder: Path) -> None:
        """Make a folder that survives a power cut; the lock keeps a second thread from using it before it does."""
        with self._lock:
            if folder not in self._durable:
                make_private_folder(folder)
                fsync_path(folder.parent)
                self._durable.add(folder)

    def pseudonym(self, text: str) -> str:
        """Return a keyed name for a patient: the same in every log and report of this site, and nowhere else.

        Raises
        ------
        SpoolError
            The site's key cannot be made or read.
        """
        return hmac.digest(self._site_key(), text.encode(), "sha256").hex()[:10] if text else ""

    def signature(self, purpose: str, content: bytes) -> str:
        """Return what only this site's key can make of a content, for one purpose (HMAC-SHA-256, hexadecimal).

        Raises
        ------
        SpoolError
            As for a pseudonym.
        """
        return hmac.digest(self._site_key(), purpose.encode() + b"\0" + content, "sha256").hex()

    def _site_key(self) -> bytes:
        with self._lock:
            if not self._key:
                path = self.root / "site.key"
                try:
                    if not path.exists():
                        self._make_key(path)
                    self._key = read_regular(path)
                except OSError as error:
                    raise self._refusal(error) from error
            return self._key

    def _make_key(self, path: Path) -> None:
        partial = self.root / PARTIAL / uuid4().hex
        try:
            write_fsynced(partial, [secrets.token_bytes(32)], PRIVATE)
            with suppress(FileExistsError):  # another process was first: its key counts
                os.link(partial, path)
            fsync_path(self.root)
        finally:
            partial.unlink(missing_ok=True)
