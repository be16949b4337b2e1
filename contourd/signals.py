"""SIGTERM and SIGINT, told from a thread of their own.

A handler runs between two instructions of the main thread, which may just then hold the lock of the very event that the
handler is to set: it would wait for itself for ever.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Sequence

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
