"""Who may use the spool: its owner alone, and one contourd at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from contourd.errors import NodeError, SpoolError

log = logging.getLogger(__name__)

PRIVATE_UMASK = 0o077
FOLDER_MODE, FILE_MODE = 0o700, 0o600
LOCK = "contourd.lock"
HOST_LOCK = "contourd.{}.lock"
FOLDERS = ("incoming", "outgoing", "reviews", "partial", "models")


def keep_private() -> None:
    """Make whatever this process writes from now on its user's alone."""
    os.umask(PRIVATE_UMASK)


class SpoolLock:
    """A spool that is taken, until it is closed or the process ends.

    The file alone would not do: who removes it lets a second contourd make another one. The folder itself is locked,
    too, where its file system locks folders, which NFS does not.
    """

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def take(self, path: Path, flags: int, kind: int = fcntl.LOCK_EX) -> None:
        """Lock a file or folder, too; raises OSError, and BlockingIOError where another process has it."""
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
        self._descriptors.append(descriptor)
        if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EINVAL, f"{path.name} is no file; remove it")
        _lock(descriptor, kind)

    def close(self) -> None:
        """Release the spool."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> SpoolLock:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def lock_spool(root: Path, host: str = "") -> SpoolLock:
    """Take the spool until what is returned is closed, or the process ends.

    Parameters
    ----------
    host
        Of a folder that several hosts serve, the name of this one: it keeps out another contourd of this host, and
        whoever takes the whole spool. Empty: the whole spool.

    Raises
    ------
    NodeError
        Another contourd serves it.
    SpoolError
        The folder cannot be written to.
    """
    lock = SpoolLock()
    try:
        file = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        if host:
            lock.take(root / LOCK, file, fcntl.LOCK_SH)
            lock.take(root / HOST_LOCK.format(host), file)
        else:
            lock.take(root, os.O_RDONLY | os.O_DIRECTORY)
            lock.take(root / LOCK, file)
    except BlockingIOError as error:
        lock.close()
        raise NodeError(
            f"another contourd already serves the spool {root}; stop it first, or give spool.root another folder"
        ) from error
    except OSError as error:
        lock.close()
        raise SpoolError(f"spool.root {root} cannot be used: {error.strerror}") from error
    return lock


def is_served(root: Path) -> bool:
    """Return whether a running node holds the spool, on whatever host."""
    for path in (root, root / LOCK, *root.glob(HOST_LOCK.format("*"))):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            _lock(descriptor, fcntl.LOCK_SH)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _lock(descriptor: int, kind: int) -> None:
    """Lock a file or a folder; raises BlockingIOError where another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise


def close_to_others(root: Path) -> None:
    """Take away what rights others have on a spool that an earlier version, or a copy of it, left open to them.

    Starting goes on, for closing it breaks nothing; but a folder that is no spool yet and holds something is refused,
    for it may be anybody's.

    Raises
    ------
    SpoolError
        It belongs to another user, holds what is not contourd's, or its file system keeps no modes.
    """
    if not root.exists() or not any(map(_open_to_others, [root, *_within(root)])):
        return
    if _open_to_others(root) and any(_within(root)) and not (root / FOLDERS[0]).is_dir():
        raise SpoolError(
            f"spool.root {root} is open to other users and holds what is not contourd's; give it a folder of its own"
        )
    for path in _all(root):
        if not _open_to_others(path):
            continue
        try:
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
        except OSError as error:
            raise SpoolError(
                f"{path} is open to other users and cannot be closed to them: {error.strerror}; "
                f"run `chown -R USER {root}` for the user that runs contourd"
            ) from error
        if _open_to_others(path):
            raise SpoolError(f"{path} stays open to other users: its file system keeps no modes; move spool.root")
    log.warning("the spool was open to other users; it is closed to them now", extra={"action": "spool"})


def _open_to_others(path: Path) -> bool:
    return bool(stat.S_IMODE(path.lstat().st_mode) & PRIVATE_UMASK) and not path.is_symlink()


def _within(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.name != "lost+found")  # of a file system of its own


def _all(root: Path) -> Iterator[Path]:
    """Go through the root, what lies in it, and everything in contourd's own folders."""
    yield root
    yield from _within(root)
    for name in FOLDERS:
        yield from (root / name).rglob("*")
