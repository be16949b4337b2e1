"""Logging set-up: one line a record, key=value after the sentence; numbers and names of ours, never a patient's."""

from __future__ import annotations

import logging
import sys
from typing import Any

EXTRA = ("action", "job", "series", "delivery", "destination", "association", "calling_ae", "peer", "worker")
# More than any sentence of ours; what a peer sent may be longer.
LONGEST = 2000


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return text that came from outside so that it can be shown: on one line, without escapes, of bounded length.

    What is not printable stands as Python would write it: a line feed as a backslash and an n.
    """
    told = str(text)
    if len(told) > longest:
        told = told[: longest - 3] + "..."
    if told.isprintable():
        return told
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in told)


class LineFormatter(logging.Formatter):
    """time LEVEL sentence key=value ...

    Whatever a peer sent, a record begins one line; those of its traceback follow, indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        """Append the known extras to the sentence."""
        pairs = [f"{key}={value}" for key in EXTRA if (value := getattr(record, key, None)) is not None]
        return one_line(" ".join([super().formatMessage(record), *pairs]))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the name is logging's)
        """Indent the traceback, so that no line of it passes for a record."""
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(ei).split("\n"))


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error; the libraries speak only of trouble, and pydicom not at all: it quotes what it reads."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("pynetdicom", "alembic", "apscheduler", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
