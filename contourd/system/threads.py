"""Threads that go on whatever happens, and threads whose end is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def run_surviving(call: Callable[[], object], doing: str) -> bool:
    """Call a function of a thread that must outlive it; what it raises is told with its traceback, and False returned.

    Parameters
    ----------
    doing
        What the thread was about, for the log.
    """
    try:
        call()
    except Exception:
        log.exception("%s failed; it is tried again", doing, extra={"action": "fault"})
        return False
    return True


def watch_threads(tell: Callable[[str, str], None]) -> None:
    """Report the end of each thread by an exception: in the log with its traceback, and to a function.

    Parameters
    ----------
    tell
        Is given the name of the thread and the kind of the exception; must not raise.
    """

    def ended(raised: threading.ExceptHookArgs) -> None:
        name = raised.thread.name if raised.thread is not None else "a thread"
        log.error(
            "the thread %r ended by %s",
            name,
            raised.exc_type.__name__,
            exc_info=raised.exc_value,
            extra={"action": "fault"},
        )
        tell(name, raised.exc_type.__name__)

    threading.excepthook = ended
