"""What stands against a series, kept beside its images: an older backup of the database does not know it.

A journal in the spool: one JSON object a line, appended and fsynced. Only what is amiss is written, and that it is
over: a series that came whole, and that nobody stopped, leaves no line. Where the journal cannot be written the
database alone knows. It is read at a start, for images that the database does not know, and after a restore.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from contourd.system.durable_files import PRIVATE, write_durably
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

JOURNAL = "marks.jsonl"


class JournalMark(StrEnum):
    """What may stand against a series."""

    INTERRUPTED = "interrupted"  # its transfer broke off
    REFUSED = "refused"  # an image of it was refused; the detail is JSON
    PERSON = "person"  # a person stopped a job of it; the detail is JSON, and the sentence in older lines
    RESTORED = "restored"  # of no series: the database was put back, and the node was not started since
    RUNNING = "running"  # of no series: the node was started, and did not stop in order since


@dataclass(slots=True)
class JournalEntry:
    """What stands against one series: the last word on each, and each image that was refused."""

    words: dict[JournalMark, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


class SeriesJournal:
    """The journal of one spool; several processes may write it."""

    def __init__(self, root: Path) -> None:
        self._path = root / JOURNAL

    def add(self, mark: JournalMark, series_uid: str, detail: str) -> None:
        """Write down what stands against a series; never raises, for the database knows it too."""
        try:
            with self._locked() as descriptor:
                # On a line of its own, also where a power cut left half of one.
                os.write(descriptor, f"\n{_line(series_uid, mark, detail)}".encode())
                os.fsync(descriptor)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror, extra={"action": "mark"})

    def clear(self, series_uid: str, *marks: JournalMark) -> None:
        """Write down that marks of a series are over, where there are any."""
        found = self.read().get(series_uid, JournalEntry())
        for mark in marks:
            if mark in found.words or (mark is JournalMark.REFUSED and found.refused):
                self.add(mark, series_uid, "")

    def read(self) -> dict[str, JournalEntry]:
        """Return what stands, by Series Instance UID; a line that was cut off is passed over."""
        found: dict[str, JournalEntry] = {}
        try:
            lines = read_regular(self._path).decode("utf-8", "replace").splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                entry = json.loads(line)
                series = str(entry["series"])
                mark = JournalMark(entry["mark"])
                detail = str(entry["detail"])
            except (ValueError, KeyError, TypeError):
                continue
            _apply(found.setdefault(series, JournalEntry()), mark, detail)
        return {series: marks for series, marks in found.items() if marks.words or marks.refused}

    def compact(self) -> None:
        """Keep only what stands."""
        try:
            with self._locked():
                partial = self._path.with_name(f".{JOURNAL}.{uuid4().hex}")
                write_durably(partial, self._path, [line.encode() for line in _lines(self.read())], PRIVATE)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror, extra={"action": "mark"})

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open it for this process alone; one that was replaced meanwhile is another file."""
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self._is_current(descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False


def _apply(marks: JournalEntry, mark: JournalMark, detail: str) -> None:
    if mark is JournalMark.REFUSED:
        marks.refused.append(detail) if detail else marks.refused.clear()
    elif detail:
        marks.words[mark] = detail
    else:
        marks.words.pop(mark, None)


def _lines(standing: Mapping[str, JournalEntry]) -> Iterator[str]:
    for series, marks in standing.items():
        for mark, detail in (*marks.words.items(), *((JournalMark.REFUSED, one) for one in marks.refused)):
            yield _line(series, mark, detail)


def _line(series_uid: str, mark: JournalMark, detail: str) -> str:
    return json.dumps({"series": series_uid, "mark": mark, "detail": detail}) + "\n"
