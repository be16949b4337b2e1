"""Errors that say that the machine has no room left: its memory, or its disk."""

from __future__ import annotations

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# What torch says on a CPU, where it raises no error of its own kind.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad alloc", "std::bad_alloc")


def lacks_memory(error: Exception) -> bool:
    """Return whether an error tells of memory that could not be had."""
    if not isinstance(error, RuntimeError | OSError):
        return isinstance(error, MemoryError)
    message = str(error)
    return getattr(error, "errno", None) == errno.ENOMEM or any(words in message for words in OUT_OF_MEMORY)
