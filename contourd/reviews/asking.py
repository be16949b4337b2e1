"""Asking a process of its own to read and compare, so that what a peer sent costs the node neither time nor memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from contourd.errors import ReviewUnusable
from contourd.reasons.catalogue import HoldReason

LONGEST_S = 900.0
MOST_BYTES = 4 * 2**30
POLL_S = 0.2
Plain = Mapping[str, Any]


class Stopped(Exception):
    """The node is being stopped; what was asked is asked again next time."""


def ask(request: Plain, stopping: threading.Event, longest_s: float = LONGEST_S) -> dict[str, Any]:
    """Have a request answered.

    Raises
    ------
    ReviewUnusable
        What came back is refused, or takes too long or too much memory.
    Stopped
        The node is being stopped.
    """
    command = [sys.executable, "-P", "-m", "contourd.reviews.apart"]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **one_thread},
    )
    content: bytes | None = json.dumps(dict(request)).encode()
    until = time.monotonic() + longest_s
    try:
        while True:
            try:
                answered, _ = child.communicate(content, POLL_S)
                break
            except subprocess.TimeoutExpired:
                content = None  # it is on its way
                if stopping.is_set():
                    raise Stopped from None
                if time.monotonic() > until:
                    raise not_finished(longest_s) from None
    finally:
        child.kill()
        child.communicate()
    try:
        answer: dict[str, Any] = json.loads(answered)
    except ValueError:  # it was killed, or ran out of memory
        raise not_finished(longest_s) from None
    if "refused" in answer:
        code = HoldReason(answer["refused"]["code"])
        raise ReviewUnusable(code, **answer["refused"]["detail"])
    return answer


def not_finished(longest_s: float) -> ReviewUnusable:
    """Return the error of what takes too long, or too much memory."""
    return ReviewUnusable(HoldReason.REVIEW_NOT_FINISHED, seconds=longest_s, gib=MOST_BYTES / 2**30)
