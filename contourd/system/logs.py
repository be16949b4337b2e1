"""Logging set-up: one line a record, key=value after the sentence; numbers and names of ours, never a patient's.

What pydicom, pynetdicom and Python put into the text of a warning or an exception may quote a dataset. Such a text is
left out wherever it would be printed: its kind and its place in the code are told instead.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
import traceback
import warnings
from datetime import datetime
from types import TracebackType
from typing import TextIO

from contourd.errors import ContourdError

EXTRA = ("action", "job", "series", "delivery", "destination", "association", "calling_ae", "peer", "worker")
# More than any sentence of ours; what a peer sent may be longer.
LONGEST = 2000
# Their loggers speak of the datasets that they read.
QUOTING = ("pydicom",)

log = logging.getLogger(__name__)


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return text that came from outside so that it can be shown: on one line, without escapes, of bounded length.

    What is not printable stands as Python would write it: a line feed as a backslash and an n.
    """
    line = str(text)
    if len(line) > longest:
        line = line[: longest - 3] + "..."
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def error_text(error: BaseException) -> str:
    """Return the kind of an error, with its text where that is ours, the system's or the database's."""
    kind = type(error).__name__
    if isinstance(error, OSError):
        return f"{kind}: {error.strerror}" if error.strerror else kind
    return f"{kind}: {error}" if isinstance(error, ContourdError | sqlite3.Error) and str(error) else kind


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error and of those that led to it, each with what ``told`` says of it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    parts = []
    for one in reversed(chain):
        frames = "".join(traceback.format_tb(one.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{error_text(one)}")
    return "\n\nwhich led to:\n\n".join(parts)


class LineFormatter(logging.Formatter):
    """time LEVEL sentence key=value ...

    Whatever a peer sent, a record begins one line; those of its traceback follow, indented.
    """

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002  logging's
        """Return the local time to the millisecond with its offset from UTC: an hour that comes twice is told apart."""
        at = datetime.fromtimestamp(record.created).astimezone()
        return f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03d}{at:%z}"

    def format(self, record: logging.LogRecord) -> str:
        """Leave out what another library says; it may quote the patient."""
        shown = logging.makeLogRecord(record.__dict__)
        shown.exc_text = None  # another handler's, with the text of the error
        if isinstance(record.msg, BaseException):
            shown.msg = f"{record.name}: {error_text(record.msg)}"
            shown.args = None
        elif record.name.partition(".")[0] in QUOTING:
            shown.msg = f"{record.name} has a remark at {record.filename}:{record.lineno}"
            shown.args = None
        return super().format(shown)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        """Append the known extras to the sentence."""
        pairs = [f"{key}={value}" for key in EXTRA if (value := getattr(record, key, None)) is not None]
        return one_line(" ".join([super().formatMessage(record), *pairs]))

    def formatException(  # noqa: N802  logging's own name
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return the traceback without what an exception may quote, indented: no line of it passes for a record."""
        told_lines = traceback_text(ei[1]).split("\n") if ei[1] is not None else []
        return "\n".join(f"  {one_line(line)}" for line in told_lines)


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error; pynetdicom, alembic and APScheduler speak only of trouble."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("pydicom", "pynetdicom", "alembic", "apscheduler"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A destination that is down is no error, and the node tells of it once itself.
    logging.getLogger("pynetdicom.transport").setLevel(logging.CRITICAL)
    guard_standard_error()


def guard_standard_error() -> None:
    """Print of warnings, and of exceptions that nobody caught, no text that may quote the patient."""
    warnings.showwarning = _show_warning
    sys.excepthook = lambda kind, error, trace: _show(traceback_text(error))
    threading.excepthook = lambda raised: _show(traceback_text(raised.exc_value) if raised.exc_value else "")
    sys.unraisablehook = lambda raised: _show(f"ignored: {error_text(raised.exc_value)}" if raised.exc_value else "")


def _show(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")


def _show_warning(
    message: Warning | str,  # noqa: ARG001  what must not be told
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _show(f"{category.__name__} at {filename}:{lineno}")
