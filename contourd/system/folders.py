"""What lies below a folder, however deep: its files, and what cannot be read as one, with the reason.

A pipe would be waited for and never come; a link to a folder may lead round in a circle, and out of the folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def irregular(path: Path) -> str:
    """Return why something in a folder cannot be read as a file; empty where it can."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return "" if os.access(path, os.R_OK) else "cannot be read: permission denied"
    return f"is {KINDS.get(stat.S_IFMT(mode), 'no file')}, and not read"


def walk(root: Path, passed: Callable[[Path, str], None]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Give each folder with the names of its folders and of the rest, in order: ``os.walk`` without its recursion.

    Parameters
    ----------
    passed
        Is told of each folder that is not entered, and why: a link to one, or one that cannot be read.

    Yields
    ------
    A folder, the names of its folders, of which the caller may remove some, and the names of all else.
    """
    waiting = [root]
    while waiting:
        at = waiting.pop()
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(at) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112 (of many)
                        passed(at / entry.name, "is a link to a folder, and not followed; name that folder itself")
                    else:
                        names.append(entry.name)
        except OSError as error:
            passed(at, f"the folder cannot be read: {error.strerror}")
            continue
        folders.sort()
        names.sort()
        yield at, folders, names
        waiting += [at / name for name in reversed(folders)]


def files_below(folder: Path) -> tuple[tuple[Path, ...], dict[Path, str]]:
    """Find the files below a folder, in order, and whatever else lies there, with the reason why it is not read."""
    found: list[Path] = []
    left_out: dict[Path, str] = {}
    for at, _, names in walk(folder, left_out.__setitem__):
        for path in (at / name for name in names):
            if reason := irregular(path):
                left_out[path] = reason
            else:
                found.append(path)
    return tuple(sorted(found)), left_out
