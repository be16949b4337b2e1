"""Send files to a node: the test senders (DICOM PS3.4 annex B, as SCU)."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pynetdicom.status import code_to_category

from contourd.dicom.network.association import AssociationRequestor
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.network.scu import WARNINGS
from contourd.dicom.reading.files import LARGEST_BYTES, is_dicom, read_dicom, read_meta
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.lenient import is_cut_off
from contourd.errors import NodeError
from contourd.settings import Destination
from contourd.system.folders import files_below, irregular
from contourd.system.regular_files import read_regular

SUCCESS = 0x0000
MOST_CONTEXTS = 128
NO_ANSWER, ENDED_BEFORE = "no answer, or the connection broke", "the association ended before it"
LAST_MESSAGE = 0xFFFF
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file.

    Attributes
    ----------
    status
        Of the C-STORE response; None where none came, or the file was not sent.
    reason
        Empty where it was taken without a remark.
    unanswered
        Whether it was sent, and no answer came.
    """

    path: Path
    status: int | None
    reason: str = ""
    unanswered: bool = False

    @property
    def taken(self) -> bool:
        """Whether the other side says that it has the file: Success, or a warning."""
        return self.status == SUCCESS or self.status in WARNINGS


def dicom_files(folder: Path) -> tuple[tuple[Path, ...], dict[Path, str]]:
    """Find the DICOM files of a folder, searched to the bottom, also damaged ones; and what is left out, and why.

    A single file may be given too. A DICOMDIR is left out.
    """
    if not folder.is_dir() and (reason := irregular(folder)):
        return (), {folder: reason}
    paths, left_out = files_below(folder) if folder.is_dir() else ((folder,), {})
    found: list[Path] = []
    for path in paths:
        kind = _context(path)
        if kind is not None and kind[0] == MediaStorageDirectoryStorage:
            left_out[path] = "is a DICOMDIR"
        elif kind is None and not is_dicom(path):
            left_out[path] = "is no DICOM file"
        else:
            found.append(path)
    return tuple(found), left_out


class FileSender:
    """Sends files as they are, each in its own transfer syntax, over one association and without a second try."""

    def __init__(self, calling_ae: str) -> None:
        self._caller = AssociationRequestor(calling_ae)

    def send_files(
        self, paths: Sequence[Path], destination: Destination, advanced: Callable[[], None] = lambda: None
    ) -> list[FileResult]:
        """Send DICOM files in their order, and return of each what became of it; one that is damaged is not sent.

        Parameters
        ----------
        advanced
            Is called after each file, for a progress bar.

        Raises
        ------
        NodeError
            There are more kinds of files than an association can name (PS3.8 9.3.2.2: 128).
        """
        kinds_of = {path: _context(path) for path in paths}
        kinds = dict.fromkeys(kind for kind in kinds_of.values() if kind is not None)
        if len(kinds) > MOST_CONTEXTS:
            raise NodeError(f"{len(kinds)} kinds of files are more than {MOST_CONTEXTS}; send them in parts")
        results = [FileResult(path, None, _unsendable(path)) for path, kind in kinds_of.items() if kind is None]
        for _ in results:
            advanced()
        waiting = [path for path in reversed(paths) if kinds_of[path] is not None]
        if not waiting:
            return results

        def note(sent: FileResult) -> None:
            results.append(sent)
            advanced()

        silent = False

        def each(association: Any) -> Outcome:
            nonlocal silent
            numbers = itertools.cycle(range(1, LAST_MESSAGE + 1))
            while waiting and association.is_established:
                sent = _store(association, waiting[-1], next(numbers))
                if sent.unanswered:  # nothing more is answered, and each would be waited for
                    silent = True
                    association.abort()
                    return Outcome(OutcomeKind.RETRY, NO_ANSWER)
                waiting.pop()
                note(sent)
            return Outcome(OutcomeKind.ACCEPTED, "")

        outcome = self._caller.ask(destination, list(kinds), each)
        reason = outcome.reason
        if waiting and (outcome.kind is OutcomeKind.IMPROPER or silent):
            note(FileResult(waiting.pop(), None, reason))
            reason = ENDED_BEFORE
        for path in reversed(waiting):
            note(FileResult(path, None, reason or ENDED_BEFORE))
        return results


def _store(association: Any, path: Path, message_id: int) -> FileResult:
    try:
        dataset = _whole(path)
        kind = f"{dataset.SOPClassUID.name} in {dataset.file_meta.TransferSyntaxUID.name}"
    except UNREADABLE as error:
        return FileResult(path, None, _error_text(error))
    try:
        answer = association.send_c_store(dataset, message_id)
    except ValueError:
        return FileResult(path, None, f"{kind} is not taken there")
    except RuntimeError:
        return FileResult(path, None, "the connection was closed")
    if "Status" not in answer:
        return FileResult(path, None, NO_ANSWER, unanswered=True)
    status = int(answer.Status)
    text = f"{code_to_category(status)} {answer.get('ErrorComment') or ''}".strip()
    return FileResult(path, status, "" if status == SUCCESS else text)


def _whole(path: Path) -> Dataset:
    """Read a file that is not cut off; of one that is, pydicom returns what there is and says nothing.

    Raises
    ------
    OSError
        It is, or it cannot be read.
    """
    if path.stat().st_size <= LARGEST_BYTES and is_cut_off(read_regular(path)):
        raise OSError(errno.EIO, "it is cut off; export it anew")
    dataset = read_dicom(path)
    if "Rows" in dataset and not any(keyword in dataset for keyword in PIXELS):
        raise OSError(errno.EIO, "it has no pixels: it is cut off, or a header alone; export it anew")
    return dataset


def _unsendable(path: Path) -> str:
    """Return why a file is not sent whose file meta information cannot be read."""
    try:
        _whole(path)
    except UNREADABLE as error:
        return _error_text(error)
    return "not sent: its file meta information names no SOP class or no transfer syntax; export it anew"


def _error_text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"not sent: {error.strerror}"
    return f"not sent: it cannot be read ({type(error).__name__}); export it anew"


def send_series(
    paths: Sequence[Path], calling_ae: str, node: Destination, advanced: Callable[[], None] = lambda: None
) -> None:
    """Send images to a node that must take all of them; ``advanced`` is called after each, for a progress bar.

    Raises
    ------
    NodeError
        The node cannot be reached, or refuses an image: with its status.
    """
    for sent in FileSender(calling_ae).send_files(paths, node, advanced):
        if sent.status != SUCCESS:
            status = "" if sent.status is None else f"status 0x{sent.status:04X} "
            raise NodeError(f"{node.ae_title} refused {sent.path.name}: {status}{sent.reason}")


def _context(path: Path) -> tuple[UID, UID] | None:
    """Return SOP class and transfer syntax of a file with file meta information (PS3.10 7.1)."""
    try:
        meta = read_meta(path)
        return UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID)
    except UNREADABLE:
        return None
