"""Questions from one process of the node to another, and their answers, over a pipe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from contourd.errors import ContourdError, QueueUnavailable

log = logging.getLogger(__name__)

ENDED = (OSError, EOFError)


class RequestChannel:
    """The end that asks; one question at a time."""

    def __init__(self, end: Connection) -> None:
        self._end = end
        self._lock = threading.Lock()

    def ask(self, what: str, *arguments: Any) -> Any:
        """Return the answer, or raise the error that is the answer.

        Raises
        ------
        QueueUnavailable
            Nobody is there to answer.
        """
        try:
            with self._lock:
                self._end.send((what, arguments))
                error, answer = self._end.recv()
        except ENDED as gone:
            raise QueueUnavailable("the node is ending; send it again later") from gone
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """Tell the other end that there are no more requests."""
        with self._lock, suppress(OSError):
            self._end.close()


def answer_all(end: Connection, calls: Mapping[str, Callable[..., Any]], limit_s: float | None = None) -> bool:
    """Answer questions by calls of these names until the other end is closed; False where none came for so long."""
    with suppress(*ENDED):
        while limit_s is None or end.poll(limit_s):
            what, arguments = end.recv()
            end.send(_answered(calls[what], arguments))
        return False
    return True


def _answered(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Exception | None, Any]:
    try:
        return None, call(*arguments)
    except ContourdError as error:
        return error, None
    except Exception:  # whoever asked waits for an answer, and a fault of the code must be told here
        log.exception("a receiver could not be answered", extra={"action": "receive"})
        return RuntimeError("it could not be recorded"), None
