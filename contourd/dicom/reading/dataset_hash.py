"""The hash by which an image is known, whoever wrote its file meta information; pydicom is not loaded for it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from contourd.system.regular_files import read_regular

# PS3.10 7.1: preamble, prefix, and the group length element itself, which counts what comes after it.
BEFORE_META_BYTES = 128 + 4 + 12
# PS3.10 7.1: the group length's element, the last one before the bytes that it counts.
GROUP_LENGTH = struct.Struct("<HH2sHI")


def stored_sha256(path: Path) -> str:
    """Return the hash of the dataset in a file, without its file meta information; empty where it cannot be read."""
    try:
        return dataset_sha256(read_regular(path, follow=False))
    except OSError:
        return ""


def dataset_sha256(file: bytes) -> str:
    """Return the same of a file's bytes."""
    content = memoryview(file)
    if len(content) < BEFORE_META_BYTES:
        return ""
    (*_, length) = GROUP_LENGTH.unpack_from(content, BEFORE_META_BYTES - GROUP_LENGTH.size)
    return hashlib.sha256(content[BEFORE_META_BYTES + length :]).hexdigest()
