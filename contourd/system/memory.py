"""Memory of a process that runs for months: what is freed goes back, whichever of many threads took it."""

from __future__ import annotations

import ctypes

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
