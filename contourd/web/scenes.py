"""Scenes of the jobs and held series that were looked at last, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from contourd.errors import SeriesUnusable
from contourd.observe.overview import JobDetail, SeriesDetail
from contourd.reasons.catalogue import HoldReason
from contourd.transfer.copies import HERE_ALONE, Copies, bring_if_possible
from contourd.web.scene import Scene, open_held_scene, open_scene

Key = tuple[str, int, str, int]


class SceneCache:
    """Opens one scene at a time, and forgets the one that was asked for longest ago.

    Parameters
    ----------
    limit_bytes
        Of all scenes together; a series that is larger is not shown.
    """

    def __init__(self, root: Path, limit_bytes: int, copies: Copies = HERE_ALONE) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._copies = copies
        self._lock = threading.Lock()
        self._scenes: OrderedDict[Key, Scene] = OrderedDict()

    def scene(self, detail: JobDetail) -> Scene:
        """Return a job's scene.

        Raises
        ------
        SeriesUnusable
            It cannot be shown, in words.
        """
        _refuse_purged(detail.purged)
        if detail.replaced:
            raise SeriesUnusable(HoldReason.IMAGES_REPLACED)
        shadows = [(one.text(), one.output) for one in detail.shadows if one.output]
        outputs = [*([detail.output] if detail.output else []), *(path for _, path in shadows)]
        bring_if_possible(self._copies, [*detail.paths, *outputs])
        structure_set = self._root / detail.output if detail.output else None
        key = ("job", detail.job.id, " ".join(outputs), _written_ns(structure_set))
        images = [self._root / path for path in detail.paths]
        beside = [(model, self._root / path) for model, path in shadows]
        return self._kept(key, lambda: open_scene(images, structure_set, self._limit_bytes, beside))

    def held_scene(self, detail: SeriesDetail) -> Scene:
        """Return what is there of a series that is held.

        Raises
        ------
        SeriesUnusable
            It cannot be shown, in words.
        """
        _refuse_purged(detail.purged)
        bring_if_possible(self._copies, detail.paths)
        key = ("series", detail.series.id, str(hash(detail.paths)), len(detail.paths))  # a repeat brings another path
        images = [self._root / path for path in detail.paths]
        return self._kept(key, lambda: open_held_scene(images, self._limit_bytes))

    def _kept(self, key: Key, opened: Callable[[], Scene]) -> Scene:
        with self._lock:
            found = self._scenes.pop(key, None)
            if found is None:
                self._make_room(0)
                found = opened()
                self._make_room(found.bytes)
            self._scenes[key] = found
            return found

    def _make_room(self, needed: int) -> None:
        while self._scenes and sum(s.bytes for s in self._scenes.values()) + needed > self._limit_bytes:
            self._scenes.popitem(last=False)

    @property
    def bytes(self) -> int:
        """Memory that the scenes take."""
        with self._lock:
            return sum(s.bytes for s in self._scenes.values())


def _refuse_purged(at: datetime | None) -> None:
    if at is not None:
        raise SeriesUnusable(HoldReason.FILES_PURGED, on=f"{at:%Y-%m-%d}")


def _written_ns(path: Path | None) -> int:
    """Return when a file was written: a structure set that is made again is read again."""
    try:
        return path.stat().st_mtime_ns if path is not None else 0
    except OSError:
        return 0
