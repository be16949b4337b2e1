"""Workers that break on a series, each in its own way: what the supervisor runs in place of the ordinary one.

The series with FEWEST slices is the poison; any other is contoured as ever. They are real processes with a real queue.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import NoReturn

import numpy as np

from contourd.contour.contouring import ContouringOptions, ContouringResult, contour_series
from contourd.dicom.reading.series import Instance
from contourd.model.predictor import Predictor
from contourd.node import worker
from contourd.settings import Settings

POISON_SLICES, RESTS = 18, "rests"


def _unless_poison(
    instances: list[Instance], predictor: Predictor, order: ContouringOptions
) -> ContouringResult | None:
    if len(instances) == POISON_SLICES:
        return None
    return contour_series(instances, predictor, order)


def _crash(instances: list[Instance], predictor: Predictor, order: ContouringOptions) -> ContouringResult:
    contoured = _unless_poison(instances, predictor, order)
    if contoured is None:
        os.kill(os.getpid(), signal.SIGSEGV)
    assert contoured is not None
    return contoured


def _exhaust(instances: list[Instance], predictor: Predictor, order: ContouringOptions) -> ContouringResult:
    contoured = _unless_poison(instances, predictor, order)
    if contoured is None:
        np.ones(10**10)  # 80 GB
    assert contoured is not None
    return contoured


def _hang(instances: list[Instance], predictor: Predictor, order: ContouringOptions) -> ContouringResult:
    contoured = _unless_poison(instances, predictor, order)
    if contoured is None:
        ctypes.PyDLL(None).sleep(600)  # PyDLL does not let go of the interpreter: no thread can renew the lease
    assert contoured is not None
    return contoured


def crashing(settings: Settings, name: str, parent: Connection) -> None:
    worker.main(settings, name, parent, _crash)


def exhausting(settings: Settings, name: str, parent: Connection) -> None:
    worker.main(settings, name, parent, _exhaust)


def hanging(settings: Settings, name: str, parent: Connection) -> None:
    worker.main(settings, name, parent, _hang)


def dying_at_start(*_: object) -> NoReturn:
    sys.exit(3)


class Resting(worker.Worker):
    """Rests for an hour where nobody wakes it, and leaves a file when it begins to."""

    def rest(self) -> None:
        (self._settings.spool.root / RESTS).touch()
        super().rest()


def resting(settings: Settings, name: str, parent: Connection) -> None:
    worker.Worker, worker.IDLE_S = Resting, 3600.0  # of this process alone
    worker.main(settings, name, parent)
