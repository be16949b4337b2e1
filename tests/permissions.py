"""What others may do with files that are the owner's alone."""

from __future__ import annotations

import stat
from pathlib import Path


def too_open(root: Path) -> dict[str, str]:
    """What under a folder others have any right on, with its mode."""
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (root, *root.rglob("*"))}
    return {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077}
