"""The spool: received images and structure sets as files of this host. Paths come from our own ids, never from a UID.

Once a store returned it survives a power cut, and no reader ever sees half of it. Where several hosts work together
their files lie in one folder, or each has a spool of its own, and an object store holds what all need.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import shutil
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from uuid import uuid4

from contourd.errors import ObjectExists, SpoolError, SpoolFull, StoreUnavailable
from contourd.spool.files import PARTIAL, FolderStore, SharedFolderStore
from contourd.spool.grouping import GroupedPuts
from contourd.spool.objects import Chunks, ObjectStore, StoredFile
from contourd.system.durable_files import PRIVATE, fsync_path, make_private_folder, write_fsynced
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

__all__ = ["INCOMING", "OUTGOING", "PARTIAL", "REVIEWS", "Spool"]

INCOMING = "incoming"
OUTGOING = "outgoing"
# In the name of a structure set that is never sent.
SHADOW = "-shadow"
REVIEWS = "reviews"
SITE_KEY = "site.key"
KEY_BYTES = 32


def is_shadow(relative: str) -> bool:
    """Return whether a structure set is a shadow's, by its path: it is kept with its job, and never sent."""
    return SHADOW in PurePosixPath(relative).name


class Spool:
    """A folder with ``incoming``, ``outgoing``, ``reviews`` and ``partial``.

    Parameters
    ----------
    root
        Made if it is not there.
    min_free_bytes
        Below this much free space nothing more is taken.
    host
        The name of this host, where there are others; it stands in the names of what it receives.
    store
        The object store that all hosts have, if there is one.
    files
        How files are written below ``root``; by default as those of a folder that is this host's alone.
    secured
        What an image is brought to before its Success, where that takes more than this host's disk.
    """

    def __init__(
        self,
        root: Path,
        min_free_bytes: int = 0,
        host: str = "",
        store: ObjectStore | None = None,
        files: FolderStore | None = None,
        secured: GroupedPuts | None = None,
    ) -> None:
        self.root = root
        self.host = host
        self.store = store
        self._secured = secured
        self.min_free_bytes = min_free_bytes
        self._files = files or FolderStore(root)
        self._lock = threading.Lock()
        self._key = b""
        is_new = not root.exists()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' images: not for every user of the machine
            for name in (INCOMING, OUTGOING, REVIEWS, PARTIAL):
                make_private_folder(root / name)
            fsync_path(root)
            if is_new:
                fsync_path(root.parent)
        except OSError as error:
            raise SpoolError(f"spool.root {root} cannot be used: {error.strerror}") from error

    @property
    def is_shared(self) -> bool:
        """Whether other hosts write to this very folder."""
        return isinstance(self._files, SharedFolderStore)

    @property
    def host_of_images(self) -> str:
        """The name of this host where its images are not every host's at once; empty where they are."""
        return "" if self.store is None else self.host

    @property
    def node_key(self) -> str:
        """What this node's own lines in the spool's journal are of, in the place of a series."""
        return f"@{self.host}" if self.is_shared else ""

    def received_here(self, relative: str) -> bool:
        """Return whether this host received an image, by its path; of a spool that is one host's alone it did."""
        return not self.host or PurePosixPath(relative).name.rpartition("-")[0] in (self.host, "")

    def sweep(self) -> None:
        """Remove what an earlier run of this host left half written; nothing of it was acknowledged.

        Raises
        ------
        SpoolError
            The file system refuses.
        """
        self._files.sweep()

    def remove(self, relative: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        SpoolError
            The file system refuses.
        """
        self._files.delete(relative)

    def copy(self, relative: str, content: bytes) -> None:
        """Write a copy of what the object store holds, in the place of one that is there; raises SpoolError."""
        self._files.copy(relative, [content])

    def remove_empty_days(self, before: str) -> list[str]:
        """Remove the folders of the days before one (YYYYMMDD) that hold nothing more; returns their names."""
        removed = []
        for of in (INCOMING, REVIEWS):
            for folder in sorted((self.root / of).iterdir()):
                if folder.is_dir() and folder.name < before and self._files.remove_folder(folder):
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

    def incoming(self, until: float, folder: str = INCOMING) -> list[str]:
        """Return the relative paths of the instances that were written before a time (seconds since the epoch)."""
        found = []
        for path in sorted((self.root / folder).glob("*/*.dcm")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < until:
                    found.append(f"{folder}/{path.parent.name}/{path.name}")
        return found

    def probe(self, size_bytes: int) -> None:
        """Write and remove a file of a size; raises SpoolError where that cannot be done."""
        path = f"{PARTIAL}/{uuid4().hex}"
        self._store(path, [bytes(size_bytes)])
        self.remove(path)

    def probe_store(self) -> None:
        """Ask the object store for anything, where there is one; raises SpoolError where it does not answer."""
        if self.store is not None:
            next(self.store.list(SITE_KEY), None)

    def free_bytes(self) -> int:
        """Return the free space of the spool's file system."""
        return shutil.disk_usage(self.root).free

    def has_room(self) -> bool:
        """Return whether there is more free space than must be left."""
        try:
            return self.free_bytes() >= self.min_free_bytes
        except OSError:
            return False

    def store_instance(self, chunks: Chunks, folder: str = INCOMING) -> str:
        """Store a received instance and return its path relative to the root.

        Parameters
        ----------
        chunks
            The bytes of the file.
        folder
            ``incoming`` for images, ``reviews`` for structure sets that come back.

        Raises
        ------
        SpoolFull
            No space is left.
        SpoolError
            The file system refuses.
        """
        whose = f"{self.host}-" if self.host else ""
        relative = f"{folder}/{datetime.now(UTC):%Y%m%d}/{whose}{uuid4().hex}.dcm"
        self._store(relative, chunks)
        return relative

    def secure(self, relative: str, chunks: Chunks) -> StoredFile | None:
        """Bring an image that was stored into the object store, where Success takes that; else do nothing.

        Returns
        -------
        Where it lies there.

        Raises
        ------
        SpoolError
            The store does not take it: the image's file is removed.
        """
        if self._secured is None:
            return None
        try:
            return self._secured.put(relative, b"".join(chunks))
        except SpoolError:
            with suppress(SpoolError):  # retention removes it
                self.remove(relative)
            raise

    def agree_on_key(self) -> None:
        """See that this host's site key is the one of all hosts: pseudonyms and signatures are made with it.

        Raises
        ------
        SpoolError
            The object store holds another site's key; or it cannot be had, and this host has none yet.
        """
        if self.store is None:
            return
        key = self._site_key()
        try:
            common = self._agreed_key(self.store, key)
        except StoreUnavailable as error:
            log.warning("%s; the site key is compared at the next start", error, extra={"action": "spool"})
            return
        if common != key:
            raise SpoolError(
                f"the object store holds another site's key than {self.root / SITE_KEY}: give this site a bucket or a "
                "spool.store.prefix of its own, or, on a host that never received anything, remove that file"
            )

    def _agreed_key(self, store: ObjectStore, key: bytes) -> bytes:
        """Return the key that the object store holds, which is this one where it held none."""
        try:
            store.put(SITE_KEY, [key])
        except ObjectExists:
            return store.get(SITE_KEY)
        return key

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
        self._refuse_full()
        self._files.replace(relative, [content])
        return relative

    def store_shadow(self, job_id: int, shadow_id: int, token: int, content: bytes) -> str:
        """Store the structure set of a shadow beside those of its job; returns its relative path.

        Parameters
        ----------
        token
            Of the claim under which it was made, as of a job.

        Raises
        ------
        SpoolError
            As for an instance.
        """
        relative = f"{OUTGOING}/{job_id}{SHADOW}{shadow_id}-c{token}.dcm"
        self._refuse_full()
        self._files.replace(relative, [content])
        return relative

    def _store(self, relative: str, chunks: Chunks) -> None:
        self._refuse_full()
        self._files.put(relative, chunks)

    def _refuse_full(self) -> None:
        if not self.has_room():
            raise SpoolFull(f"less than {self.min_free_bytes / 1e9:.1f} GB are free in {self.root}; make room")

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
                path = self.root / SITE_KEY
                try:
                    if not path.exists():
                        self._make_key(path)
                    self._key = read_regular(path)
                except OSError as error:
                    raise self._files.refusal(error) from error
            return self._key

    def _make_key(self, path: Path) -> None:
        """Make the site's key, or take the one that another host made: the first one counts."""
        partial = self._files.partial()
        try:
            write_fsynced(partial, [self._key_of_all()], PRIVATE)
            if os.geteuid() == 0:  # whoever serves must read it, too
                os.chown(partial, self.root.stat().st_uid, self.root.stat().st_gid)
            with suppress(FileExistsError):  # another process was first: its key counts
                os.link(partial, path)
            fsync_path(self.root)
        finally:
            partial.unlink(missing_ok=True)

    def _key_of_all(self) -> bytes:
        """Return the key that the object store holds for all hosts, or a new one."""
        made = secrets.token_bytes(KEY_BYTES)
        if self.store is None:
            return made
        with suppress(ObjectExists):
            self.store.put(SITE_KEY, [made])
        return self.store.get(SITE_KEY)
