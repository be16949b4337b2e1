"""Regular files, and nothing else: what lies in the place of one may be a pipe, which nobody ever writes to.

Opening and reading such a thing would wait for ever, and with it whoever is to be stopped.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | Path, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading.

    Parameters
    ----------
    follow
        Whether it may be a link to one.

    Raises
    ------
    OSError
        It cannot be opened, or is something else.
    """

    def opener(name: str, flags: int) -> int:
        more = os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
        descriptor = os.open(name, flags | more)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            raise OSError(errno.EINVAL, "it is no regular file", name)
        return descriptor

    return open(path, "rb", opener=opener)


def read_regular(path: str | Path, follow: bool = True) -> bytes:
    """Return what is in a regular file; raises as ``open_regular`` does."""
    with open_regular(path, follow) as file:
        return file.read()
