"""The headers of the images of series that are to be examined, each read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from contourd.dicom.reading.instance import Instance, read_instance
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.system.folders import irregular
from contourd.transfer.copies import HERE_ALONE, Copies


class HeaderCache:
    """Headers by their image's path, relative to the spool; a stored file never changes."""

    def __init__(self, root: Path, copies: Copies = HERE_ALONE) -> None:
        self._root = root
        self._copies = copies
        self._read: dict[str, Instance] = {}

    def __len__(self) -> int:
        return len(self._read)

    def read(self, paths: Sequence[str]) -> list[Instance]:
        """Return the headers of images.

        Raises
        ------
        SeriesUnusable
            One cannot be read, or is no file any more.
        StoreUnavailable
            The object store has one, and does not answer.
        """
        self._copies.bring(path for path in paths if path not in self._read)
        gone = sum(bool(irregular(self._root / path)) for path in paths if path not in self._read)
        if gone:
            content = {"damaged": gone, "images": len(paths), "what": "are gone", "z_mm": [], "more": False}
            raise SeriesUnusable(HoldReason.IMAGES_DAMAGED, **content)
        return [self._of(path) for path in paths]

    def read_ahead(self, paths: Iterable[str], most: int) -> int:
        """Read so many headers that are not known yet; what cannot be read is told by ``read``. Returns how many."""
        new = [path for path in paths if path not in self._read and not irregular(self._root / path)][:most]
        for path in new:
            with suppress(SeriesUnusable):
                self._of(path)
        return len(new)

    def elsewhere(self, paths: Iterable[str]) -> int:
        """Return of how many images nothing is known yet: another host has them, and did not store them so far."""
        return len(self._copies.missing(path for path in paths if path not in self._read))

    def forget(self, paths: Iterable[str]) -> None:
        """Release headers."""
        for path in paths:
            self._read.pop(path, None)

    def _of(self, path: str) -> Instance:
        if path not in self._read:
            self._read[path] = read_instance(self._root / path)
        return self._read[path]
