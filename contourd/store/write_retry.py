"""What must be written down is written down, if need be later: the database may be locked, or its disk full."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from contourd.errors import QueueUnavailable

Result = TypeVar("Result")

log = logging.getLogger(__name__)

AGAIN_S = 2.0


def retry_write(call: Callable[[], object], stopping: threading.Event) -> bool:
    """Write the queue, again and again while it cannot be had.

    Returns
    -------
    False where it could not be had before ``stopping`` was set: the next start finds things as they were.
    """

    def written() -> bool:
        call()
        return True

    return retry_read(written, stopping, False)


def retry_read(call: Callable[[], Result], stopping: threading.Event, otherwise: Result) -> Result:
    """Read the queue, again and again while it cannot be had.

    Returns
    -------
    What was read; ``otherwise`` where the queue could not be had before ``stopping`` was set.
    """
    warned = False
    while True:
        try:
            return call()
        except QueueUnavailable as error:
            if not warned:
                log.warning("%s; it is tried again", error, extra={"action": "wait"})
            warned = True
        if stopping.wait(AGAIN_S):
            return otherwise
