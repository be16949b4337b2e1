"""DICOM files on a disk, read where they are regular files, and where only a formality is wrong with them, too."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from contourd.dicom.reading.decoders import inflate
from contourd.dicom.reading.lenient import PREAMBLE_BYTES, PREFIX, dataset_of, repair_file
from contourd.errors import SeriesUnusable
from contourd.system.regular_files import open_regular

# Larger ones are neither images of a CT nor structure sets: they are not read.
LARGEST_BYTES, HEAD_BYTES = 256 * 2**20, 2**16


def read_dicom(
    path: Path,
    *,
    specific_tags: Sequence[str] | None = None,
    stop_before_pixels: bool = False,
    defer_size: int | None = None,
) -> pydicom.FileDataset:
    """Read a file as ``pydicom.dcmread`` does; raises what it raises, and OSError for what is no regular file."""
    return read_with_size(
        path, specific_tags=specific_tags, stop_before_pixels=stop_before_pixels, defer_size=defer_size
    )[0]


def read_with_size(
    path: Path,
    *,
    specific_tags: Sequence[str] | None = None,
    stop_before_pixels: bool = False,
    defer_size: int | None = None,
) -> tuple[pydicom.FileDataset, int]:
    """Do the same, and return how many bytes the file has, or would have in its right form."""
    tags = list(specific_tags) if specific_tags is not None else None
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_BYTES:
            text = f"it has {size >> 20} MiB; of an image or a structure set at most {LARGEST_BYTES >> 20} are read"
            raise OSError(errno.EFBIG, text)
        content = file.read(LARGEST_BYTES)
        if content[PREAMBLE_BYTES:].startswith(PREFIX + bytes(4)):
            raise InvalidDicomError("nothing but zeros follows the prefix DICM")
        whole = repair_file(content)
        _refuse_inflating(whole)
        if whole is not content:
            read = pydicom.dcmread(BytesIO(whole), stop_before_pixels=stop_before_pixels, specific_tags=tags)
            return read, len(whole)
        file.seek(0)
        read = pydicom.dcmread(file, defer_size=defer_size, stop_before_pixels=stop_before_pixels, specific_tags=tags)
        return read, path.stat().st_size


def _refuse_inflating(content: bytes) -> None:
    """Refuse a deflated dataset before it takes memory that no file should: zlib packs thousandfold.

    Raises
    ------
    OSError
        It is damaged, cut off, or larger than any image or structure set.
    ValueError, struct.error
        The file meta information is damaged.
    """
    start, syntax = dataset_of(content)
    if syntax == DeflatedExplicitVRLittleEndian:
        try:
            inflate(memoryview(content)[start:], "it")
        except SeriesUnusable as error:
            raise OSError(errno.EFBIG, str(error)) from error


def read_meta(path: Path) -> FileMetaDataset:
    """Read the file meta information of a file, or what would be it; raises as ``read_dicom`` does."""
    with open_regular(path) as file:
        head = repair_file(file.read(HEAD_BYTES))
    start, _ = dataset_of(head)
    return read_partial(BytesIO(head[:start] if start else head)).file_meta


def is_dicom(path: Path) -> bool:
    """Return whether a file is one of DICOM's, with preamble and prefix or without; it may be cut off."""
    try:
        with open_regular(path) as file:
            return repair_file(file.read(HEAD_BYTES))[PREAMBLE_BYTES : PREAMBLE_BYTES + len(PREFIX)] == PREFIX
    except OSError:
        return False
