"""The seam behind which the spool's files lie: put, get, list, delete, by names that are never used twice.

A folder of this host, a folder that several hosts share, or a store that speaks S3. What ``put`` returned from is
durable there, and is never replaced: of two writers of one name one is told that it came second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

Chunks = Iterable[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object that is there.

    Attributes
    ----------
    modified
        When it was put, in seconds since the epoch, by the clock of where it lies.
    """

    name: str
    size_bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where the bytes of a file of the spool lie in the object store.

    Attributes
    ----------
    path
        Of the file, relative to the spool.
    name
        Of the object that holds it, with others or alone.
    offset, size_bytes
        The file's bytes within the object.
    sha256
        Of these bytes.
    """

    path: str
    name: str
    offset: int
    size_bytes: int
    sha256: str


class ObjectStore(Protocol):
    """Where objects lie, each under a name with ``/`` between its parts."""

    def put(self, name: str, chunks: Chunks) -> None:
        """Store an object durably under a name that is not in use.

        Raises
        ------
        ObjectExists
            The name is in use; what is there stays as it is.
        SpoolError
            It cannot be stored now; nothing is there under that name, or all of it.
        """

    def get(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Return an object's bytes, or so many of them from an offset.

        Raises
        ------
        ObjectMissing
            There is none.
        SpoolError
            It cannot be read now, or fewer bytes came than were asked for.
        """

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Go through the objects below a folder (``prefix`` without a ``/`` at its end); raises SpoolError."""

    def delete(self, name: str) -> None:
        """Remove an object, if it is there; raises SpoolError."""
