"""The files that a host needs and has not: fetched from the object store, checked by their hash, kept for a while.

Where no store is configured there is nothing to fetch, and nothing of this costs anything.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.errors import ObjectMissing, StoreUnavailable
from contourd.settings import SpoolSettings
from contourd.spool.folder import Spool
from contourd.spool.objects import ObjectStore, StoredFile
from contourd.spool.opening import open_spool
from contourd.store.database import Database
from contourd.store.stored_files import add_stored, find_stored
from contourd.system.clock import Clock, utc_now

log = logging.getLogger(__name__)

# Of one request, and of what lies between two files that are fetched together.
MOST_BYTES, MOST_BETWEEN_BYTES = 64_000_000, 100_000
# A file whose last use is known to be so recent is not marked again: that would change it for who compares times.
USED_EVERY_S = 600.0
TRIES = 3


class Copies(Protocol):
    """Who has files of the spool on this host, as ``LocalCopies`` says."""

    def bring(self, paths: Iterable[str]) -> None:
        """Have files here."""

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Return those that are neither here nor to be fetched."""


class HereAlone:
    """A host without others: every file that there is is here."""

    def bring(self, paths: Iterable[str]) -> None:
        """Do nothing."""

    def missing(self, paths: Iterable[str]) -> list[str]:  # noqa: ARG002
        """Return none."""
        return []


HERE_ALONE = HereAlone()


class LocalCopies:
    """The files of the spool as this host has them, and fetches them."""

    def __init__(self, database: Database, spool: Spool, clock: Clock = utc_now) -> None:
        self._database = database
        self._spool = spool
        self._now = clock

    def bring(self, paths: Iterable[str]) -> None:
        """Have files here, as far as the store has those that are not; what it has not, the reader will miss.

        Parameters
        ----------
        paths
            Relative to the spool.

        Raises
        ------
        StoreUnavailable
            The store does not answer.
        QueueUnavailable
            The index cannot be read.
        """
        store = self._spool.store
        if store is None:
            return
        missing = [path for path in paths if not self._is_here(path)]
        if missing:
            self._fetch(store, missing)

    def repair(self, images: Mapping[str, str]) -> bool:
        """Fetch again what is gone or damaged; says whether anything was.

        Parameters
        ----------
        images
            Path relative to the spool -> hash of the dataset, as it was received.

        Raises
        ------
        StoreUnavailable, QueueUnavailable
            As ``bring``.
        """
        store = self._spool.store
        if store is None:
            return False
        damaged = [path for path, sha256 in images.items() if stored_sha256(self._spool.root / path) != sha256]
        return bool(damaged) and self._fetch(store, damaged) > 0

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Return those that are neither here nor in the store: another host has them, and has not stored them yet."""
        if self._spool.store is None:
            return []
        absent = [path for path in paths if not self._is_here(path)]
        if not absent:
            return []
        with self._database.reading() as session:
            stored = find_stored(session, absent)
        return [path for path in absent if path not in stored]

    def give(self, paths: Sequence[str]) -> None:
        """Put files of this host into the store, each as an object of its own: structure sets.

        Raises
        ------
        SpoolError
            The store does not take one.
        QueueUnavailable
            The index cannot be written.
        """
        store = self._spool.store
        if store is None:
            return
        files = list[StoredFile]()
        for path in paths:
            content = (self._spool.root / path).read_bytes()
            store.put(path, [content])
            files.append(StoredFile(path, path, 0, len(content), hashlib.sha256(content).hexdigest()))
        with self._database.transaction() as session:
            known = find_stored(session, paths)
            add_stored(session, [file for file in files if file.path not in known], self._now())

    def _is_here(self, path: str) -> bool:
        """Return whether a file is here, and write down that it is used now."""
        file = self._spool.root / path
        try:
            found = file.stat()
        except OSError:
            return False
        now = time.time()
        if now - max(found.st_atime, found.st_mtime) > USED_EVERY_S:
            with suppress(OSError):
                os.utime(file, (now, found.st_mtime))
        return True

    def _fetch(self, store: ObjectStore, paths: Sequence[str]) -> int:
        """Fetch files; returns how many came whole."""
        with self._database.reading() as session:
            places = find_stored(session, paths)
        came = sum(self._fetch_run(store, run) for run in _runs(places.values()))
        if came:
            log.info("%d files were fetched from the object store", came, extra={"action": "fetch"})
        return came

    def _fetch_run(self, store: ObjectStore, run: Sequence[StoredFile]) -> int:
        """Fetch files that lie beside each other; one that is not whole is tried again, and then left out."""
        came, left = 0, list(run)
        for _ in range(TRIES):
            first = left[0].offset
            size = max(file.offset + file.size_bytes for file in left) - first
            try:
                content = store.get(left[0].name, first, size)
            except ObjectMissing as error:
                log.error("%s: %s", left[0].name, error, extra={"action": "fetch"})
                return came
            damaged = list[StoredFile]()
            for file in left:
                part = content[file.offset - first : file.offset - first + file.size_bytes]
                if hashlib.sha256(part).hexdigest() == file.sha256:
                    self._spool.copy(file.path, part)
                    came += 1
                else:
                    damaged.append(file)
            left = damaged
            if not left:
                return came
        log.error(
            "%d files of %s are not in the object store as they were put there",
            len(left),
            left[0].name,
            extra={"action": "fetch"},
        )
        return came


def _runs(files: Iterable[StoredFile]) -> Iterator[list[StoredFile]]:
    """Put together what lies near to each other in one object, up to a size."""
    run = list[StoredFile]()
    for file in sorted(files, key=lambda one: (one.name, one.offset)):
        end = run[-1].offset + run[-1].size_bytes if run else 0
        apart = not run or run[0].name != file.name or file.offset - end > MOST_BETWEEN_BYTES
        if run and (apart or file.offset + file.size_bytes - run[0].offset > MOST_BYTES):
            yield run
            run = []
        run.append(file)
    if run:
        yield run


def copies_of(settings: SpoolSettings, database: Database) -> Copies:
    """Return who has the spool's files on this host, for who only reads them: nothing is made where there is none.

    Raises
    ------
    SpoolError, SettingsError
        The spool, or the object store's settings, cannot be used.
    """
    return HERE_ALONE if settings.store is None else LocalCopies(database, open_spool(settings))


def bring_if_possible(copies: Copies, paths: Iterable[str]) -> None:
    """Have files here for who only shows what is there: a store that is away leaves them missing."""
    try:
        copies.bring(paths)
    except StoreUnavailable as error:
        log.warning("files are not fetched: %s", error, extra={"action": "fetch"})
