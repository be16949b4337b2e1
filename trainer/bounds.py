"""What an archive may not do to the trainer: make it wait for a pipe, or fill the memory by what a file claims.

Files are looked at before they are read: their kind, their size, and the size of the arrays that they announce.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

import numpy as np

from contourd.system.regular_files import open_regular

# A CT of 1024 x 1024 x 500 voxels with 64 organs.
MOST_ARRAY_BYTES = 5 * 2**30
MOST_TEXT_BYTES = 2**28
MOST_HEADER_BYTES = 10_000
CHUNK = 2**20


def read_text(path: Path) -> str:
    """Read a text of at most MOST_TEXT_BYTES.

    Raises
    ------
    OSError
        It is no regular file.
    ValueError
        It is too long, or no UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(MOST_TEXT_BYTES + 1)
    if len(content) > MOST_TEXT_BYTES:
        raise ValueError(f"it is longer than the {MOST_TEXT_BYTES // 2**20} MiB that are read of a text")
    return content.decode()


def check_arrays(file: BinaryIO) -> None:
    """Refuse an .npz whose arrays together are larger than MOST_ARRAY_BYTES, by what their headers and the zip claim.

    Raises
    ------
    ValueError, OSError, BadZipFile
        They are, or it is no .npz.
    """
    total = 0
    with ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as content:
                version = np.lib.format.read_magic(content)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(content, max_header_size=MOST_HEADER_BYTES)
            total += max(math.prod(shape) * dtype.itemsize, member.file_size)
    _refuse_more(total)
    file.seek(0)


def check_nrrd(path: Path) -> None:
    """Refuse an NRRD whose data are larger than MOST_ARRAY_BYTES, by its header or once they are unpacked.

    Raises
    ------
    ValueError, OSError, KeyError, NRRDError
        They are, it holds its data in another file, or it cannot be read.
    """
    import nrrd

    with open_regular(path) as file:
        header = nrrd.read_header(file)
        if "data file" in header or "datafile" in header:
            raise ValueError("its data stand in another file; they are read only where they follow the header")
        claimed = math.prod(int(n) for n in header["sizes"]) * 8
        _refuse_more(claimed)
        encoding = str(header.get("encoding", "raw"))
        if encoding in ("gzip", "gz"):
            _refuse_more_inside(file, claimed)
        elif encoding in ("bzip2", "bz2"):
            raise ValueError("its data are packed by bzip2; save it with gzip or raw")


def _refuse_more_inside(file: BinaryIO, most: int) -> None:
    """Unpack gzip data, keeping nothing, until they are longer than what the header has room for."""
    unpacker, total = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
    while chunk := file.read(CHUNK):
        while chunk:
            total += len(unpacker.decompress(chunk, CHUNK))
            if total > most:
                raise ValueError(f"its packed data are longer than the {most} bytes of its header")
            chunk = unpacker.unconsumed_tail


def _refuse_more(total: int) -> None:
    if total > MOST_ARRAY_BYTES:
        raise ValueError(f"its arrays claim {total / 2**30:.0f} GiB, and at most {MOST_ARRAY_BYTES // 2**30} are read")
