"""DICOM files on a disk, read where they are regular files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydicom

from contourd.regular import open_regular


def read_dicom(
    path: Path,
    *,
    specific_tags: Sequence[str] | None = None,
    stop_before_pixels: bool = False,
    defer_size: int | None = None,
) -> pydicom.FileDataset:
    """Read a file as ``pydicom.dcmread`` does; raises what it raises, and OSError for what is no regular file."""
    tags = list(specific_tags) if specific_tags is not None else None
    with open_regular(path) as file:
        return pydicom.dcmread(file, defer_size=defer_size, stop_before_pixels=stop_before_pixels, specific_tags=tags)
