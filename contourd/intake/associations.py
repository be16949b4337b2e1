"""Which association brought which images, while it is open and until its end is written down."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping


class Associations:
    """Associations by their number; used by the threads of all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, dict[str, set[str]]] = {}  # number -> SeriesInstanceUID -> SOPInstanceUIDs
        self._ended: dict[int, bool] = {}  # number of one whose end is not written down yet -> aborted
        self._again: dict[str, set[str]] = {}  # of series that broke off: SOPInstanceUIDs that came in good order since

    def opened(self, number: int) -> None:
        """Remember an association; it holds no series yet."""
        with self._lock:
            self._open[number] = {}

    def note_instance(self, number: int, series_uid: str, sop_instance_uid: str) -> None:
        """Note that an association holds the series of an image that it brings."""
        with self._lock:
            self._open.setdefault(number, {}).setdefault(series_uid, set()).add(sop_instance_uid)

    def take_back_instance(self, number: int, series_uid: str, sop_instance_uid: str) -> None:
        """Forget an image that was not taken; the association holds its series all the same."""
        with self._lock:
            self._open.get(number, {}).get(series_uid, set()).discard(sop_instance_uid)

    def ended(self, number: int, aborted: bool) -> None:
        """Note the end of an association, which holds its series until that is written down."""
        with self._lock:
            self._ended[number] = aborted

    def unwritten_ends(self) -> Mapping[int, bool]:
        """Return the associations whose end is not written down yet, and whether each was aborted."""
        with self._lock:
            return dict(self._ended)

    def instances_of(self, number: int) -> dict[str, set[str]]:
        """Return the SOP Instance UIDs that an association brought, by Series Instance UID."""
        with self._lock:
            return {uid: set(images) for uid, images in self._open.get(number, {}).items()}

    def held(self, besides: int | None = None) -> set[str]:
        """Return the Series Instance UIDs that associations hold, besides those of one of them."""
        with self._lock:
            return set().union(*(uids for number, uids in self._open.items() if number != besides))

    def note_repeated(self, series_uid: str, instances: Collection[str]) -> set[str]:
        """Add images to those of a series that came in good order since it broke off; return all of them."""
        with self._lock:
            again = self._again[series_uid] = self._again.get(series_uid, set()).union(instances)
            return again

    def forget_repeated(self, series_uid: str) -> None:
        """Forget that a series broke off: it begins anew, or is whole."""
        with self._lock:
            self._again.pop(series_uid, None)

    def forget(self, number: int) -> None:
        """Release an association whose end is written down."""
        with self._lock:
            self._open.pop(number, None)
            self._ended.pop(number, None)

    def forget_all(self) -> None:
        """Release all that are open."""
        with self._lock:
            self._open.clear()
