"""The models that a worker keeps loaded: as many as fit; where memory lacks, the one that was used longest ago goes."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from contourd.errors import DeviceError, QueueUnavailable
from contourd.model.bundle_config import ModelBundle
from contourd.model.predictor import Predictor
from contourd.reasons.catalogue import HoldReason
from contourd.store.loaded import LoadedModel
from contourd.system.clock import Clock, utc_now
from contourd.system.exhaustion import lacks_memory

log = logging.getLogger(__name__)

LACKS = (
    HoldReason.DEVICE_MEMORY_TAKEN,
    HoldReason.DEVICE_OUT_OF_MEMORY,
    HoldReason.MACHINE_OUT_OF_MEMORY,
    HoldReason.OVER_WORKER_MEMORY,
)
T = TypeVar("T")


class LoadedModels:
    """What a route calls a model -> the predictor that is loaded for it, the one used last at the end.

    Parameters
    ----------
    load
        Makes a predictor of a bundle.
    tell
        Called with what is loaded when that has changed; where it raises QueueUnavailable, ``tell_again`` does so.
    """

    def __init__(
        self,
        load: Callable[[ModelBundle], Predictor],
        tell: Callable[[Sequence[LoadedModel]], None] = lambda loaded: None,
        clock: Clock = utc_now,
    ) -> None:
        self._load = load
        self._tell = tell
        self._now = clock
        self._predictors = dict[str, Predictor]()
        self._since = dict[str, datetime]()
        self._untold = False

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """All that are loaded."""
        return MappingProxyType(self._predictors)

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """What is loaded, for people."""
        return tuple(_described(one, self._since[asked]) for asked, one in self._predictors.items())

    def tell_again(self) -> None:
        """Tell what is loaded where that could not be told; never raises QueueUnavailable."""
        if self._untold:
            self._changed()

    def _changed(self) -> None:
        try:
            self._tell(self.loaded)
        except QueueUnavailable:
            self._untold = True
        else:
            self._untold = False

    def find(self, asked: str, bundle: ModelBundle) -> Predictor | None:
        """Return the predictor of that very bundle, None where it is not loaded; another of its name goes."""
        known = self._predictors.pop(asked, None)  # what is another has the memory that is needed
        if known is None or known.bundle != bundle:
            if known is not None:
                self._changed()
            return None
        self._predictors[asked] = known
        return known

    def load(self, asked: str, bundle: ModelBundle) -> Predictor:
        """Load a bundle; raises ModelError and DeviceError as its predictor does."""
        self._predictors[asked] = self.with_room(asked, lambda: self._load(bundle))
        self._since[asked] = self._now()
        self._changed()
        return self._predictors[asked]

    def with_room(self, asked: str, call: Callable[[], T]) -> T:
        """Return what a call does for a model; where memory lacks, again without the model used longest ago, and so on.

        What the call raises when no other model is loaded is its own.
        """
        while True:
            try:
                return call()
            except (DeviceError, MemoryError, RuntimeError) as error:
                lacks = error.reason.code in LACKS if isinstance(error, DeviceError) else lacks_memory(error)
                if not lacks or not self._unload_oldest_but(asked):
                    raise

    def _unload_oldest_but(self, asked: str) -> bool:
        """Give back the memory of one model; returns whether there was another one."""
        oldest = next((name for name in self._predictors if name != asked), None)
        if oldest is None:
            return False
        del self._predictors[oldest]
        _give_back_memory()
        self._changed()
        log.info("%s makes way for %s: both do not fit", oldest, asked, extra={"action": "unload"})
        return True


def _described(predictor: Predictor, since: datetime) -> LoadedModel:
    bundle, runtime = predictor.bundle, predictor.runtime.description
    return LoadedModel(bundle.identity, bundle.config.kind, runtime.name, predictor.loaded_bytes, since)


def _give_back_memory() -> None:
    """Let the system have what is free: Python, and the C library, keep it otherwise."""
    gc.collect()
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
