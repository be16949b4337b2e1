"""SIGTERM and SIGINT, told from a thread of their own; and the end of a process whose daemon is gone.

A handler runs between two instructions of the main thread, which may just then hold the lock of the very event that the
handler is to set: it would wait for itself for ever.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

STOPPING = (signal.SIGTERM, signal.SIGINT)


def on_signals(numbers: Sequence[signal.Signals], call: Callable[[], None]) -> None:
    """Have a function called, in a thread of its own, for each of these signals that comes; from the main thread."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    for number in numbers:
        signal.signal(number, lambda number, frame: None)  # the byte is written below Python
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)

    def tell() -> None:
        with reading, writing:
            while arrived := reading.recv(1):
                if arrived[0] in numbers:
                    call()

    threading.Thread(target=tell, name="signals", daemon=True).start()


def end_with(parent: Connection, told: Callable[[], None] = lambda: None) -> None:
    """Have a process end when the other end of ``parent`` is closed: the daemon is gone. Ctrl-C is the daemon's affair.

    Parameters
    ----------
    told
        Called before that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group

    def wait() -> None:
        try:
            parent.recv_bytes()
        except (EOFError, OSError):
            told()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
