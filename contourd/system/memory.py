"""Memory of a process that runs for months: what is freed goes back, whichever of many threads took it."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from pathlib import Path

M_ARENA_MAX = -8  # malloc.h of glibc


def use_one_arena() -> None:
    """Make all threads take memory from one arena of glibc; to be called before there is a second thread.

    Else each new thread may take one of its own (up to eight for each processor), and the large buffers of received
    images leave holes in all of them: a node that many associations come to grows by hundreds of MB. Other C libraries
    have no such arenas, and nothing is done. Source: mallopt(3), M_ARENA_MAX.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def limit_memory(memory_gb: float, oom_score: int) -> None:
    """Bound what this process may allocate (0: not at all), and say how early the kernel takes it when memory runs out.

    RLIMIT_DATA and not RLIMIT_AS: CUDA reserves far more addresses than it uses.

    Parameters
    ----------
    oom_score
        0 to 1000, see proc(5).
    """
    with suppress(OSError):  # only as strict as the system lets it be
        Path("/proc/self/oom_score_adj").write_text(str(oom_score), encoding="ascii")
    if memory_gb:
        limit = int(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
