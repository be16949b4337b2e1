"""Images that are read before their series is complete, while there is no job to do.

What is held lies in memory alone, up to a bound, and only as long as the images are listed: those of series that still
arrive or whose job waits. An image is used where its file is still the very file that was read and hashed (device,
inode, size, times of change); otherwise it is read again, and what is wrong with it is told then. Of compressed images
whose decoder is a process of its own only the headers are read: a damaged one could keep a job waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from contourd.dicom.reading.dataset_hash import dataset_sha256
from contourd.dicom.reading.instance import Instance
from contourd.dicom.reading.isolation import UNDECODABLE, InProcessDecoder
from contourd.dicom.reading.received_images import decoded_bytes, read_image
from contourd.errors import SeriesUnusable
from contourd.system.regular_files import read_regular

MOST_BYTES = 2**29
FileIdentity = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What was found of a file; no instance: it is left to the job to say why."""

    sha256: str
    identity: FileIdentity
    instance: Instance | None


class ReadAhead:
    """Reads images ahead of their job.

    Parameters
    ----------
    most_bytes
        Of decoded pixels in memory.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes = most_bytes
        self._elapsed = elapsed
        self._read: dict[Path, _Read] = {}
        self._held_bytes = 0
        self._decoder = InProcessDecoder()

    def __len__(self) -> int:
        return len(self._read)

    def follow(self, images: Mapping[Path, str], limit_s: float) -> bool:
        """Drop what is not listed any more, and read what is new, for so long at most.

        Parameters
        ----------
        images
            Path -> the hash of when it was received.

        Returns
        -------
        Whether there is more to read.
        """
        for path in [p for p, read in self._read.items() if images.get(p) != read.sha256]:
            self._drop(path)
        until = self._elapsed() + limit_s
        new = [path for path in images if path not in self._read]
        for path in new:
            if self._held_bytes >= self._most_bytes:
                return False
            if self._elapsed() >= until:
                return True
            self._add(path, images[path])
        return False

    def take(self, images: Mapping[Path, str]) -> dict[Path, Instance]:
        """Hand over those of a job's images that were read and have not changed since; everything else is dropped."""
        taken = {
            path: read.instance
            for path, read in self._read.items()
            if read.instance is not None and images.get(path) == read.sha256 and _identity(path) == read.identity
        }
        self.clear()
        return taken

    def clear(self) -> None:
        """Drop everything."""
        self._read = {}
        self._held_bytes = 0

    def _drop(self, path: Path) -> None:
        instance = self._read.pop(path).instance
        self._held_bytes -= decoded_bytes(instance) if instance is not None else 0

    def _add(self, path: Path, sha256: str) -> None:
        identity, instance = _identity(path), None
        with suppress(*UNDECODABLE, SeriesUnusable):  # the job tells it
            content = read_regular(path, follow=False)
            if identity and dataset_sha256(content) == sha256:
                instance = read_image(content, path, self._decoder, self._most_bytes - self._held_bytes)
        self._read[path] = _Read(sha256, identity, instance)
        self._held_bytes += decoded_bytes(instance) if instance is not None else 0


def _identity(path: Path) -> FileIdentity:
    """Return what tells a file from one that took its place or was written to since; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
