"""What every input is held to: time, memory, and files that nobody may touch."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

LONGEST_S, FOR_EVER = 120.0, float("inf")
GROWTH_MB = 50.0
PEAK_MB = 700.0
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class TooSlow(BaseException):
    """An input that does not come to an end; nobody's ``except Exception`` catches it."""


@contextmanager
def within(seconds: float = LONGEST_S) -> Iterator[None]:
    """Interrupt the block, in the main thread, after so long."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def rss_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


@dataclass
class Memory:
    """Resident memory since the warm-up's end."""

    before_mb: float = field(default_factory=rss_mb)
    peak_mb: float = 0.0

    def look(self) -> None:
        self.peak_mb = max(self.peak_mb, rss_mb())

    @property
    def growth_mb(self) -> float:
        return rss_mb() - self.before_mb


class Files:
    """Notes each file that this process opens, makes, renames or removes outside of the folders where it may."""

    def __init__(self) -> None:
        self._reading: tuple[str, ...] | None = None
        self._writing: tuple[str, ...] = ()
        self._watching = False
        self.strays: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def only(self, writing: Path, reading: Path | None = None) -> Iterator[None]:
        """Allow writing below one folder; with ``reading``, only there (and where Python is installed) reading too."""
        roots = (
            str(Path(sys.prefix).resolve()),
            str(Path(sys.base_prefix).resolve()),
            *sys.path,
            "/proc",
            "/dev",
            "/sys",
        )
        self._writing = (str(writing),)
        self._reading = (str(reading), str(writing), *filter(None, roots)) if reading is not None else None
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._watching or event not in ("open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove"):
            return
        named = arguments[: 1 if event == "open" else 2]
        paths = [os.fsdecode(a) for a in named if isinstance(a, str | bytes | os.PathLike)]
        if event == "open":
            flags = arguments[2]
            writes = bool(isinstance(flags, int) and flags & WRITES)
            roots = self._writing if writes else self._reading
            if not writes and roots is None:
                return
        else:
            roots = self._writing
        for path in paths:
            if path != os.devnull and not os.path.abspath(path).startswith(roots or ()):  # noqa: PTH100 (pathlib would be audited itself)
                self.strays.append(f"{event} {path!r}")


FILES = Files()


@dataclass
class Figures:
    """What a campaign found."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    growth_mb: float = 0.0
    peak_mb: float = 0.0
    failures: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"{self.name:<9} {self.inputs:>7} inputs {self.seconds:7.1f} s   accepted {self.accepted}, "
            f"refused {self.refused}, failures {len(self.failures)}   slowest {self.slowest_s:.2f} s   "
            f"RSS growth {self.growth_mb:+.1f} MB, peak {self.peak_mb:.0f} MB"
        )
