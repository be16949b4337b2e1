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
from contextlib import suppress
from multiprocessing.connection import Connection

from contourd.system.threads import run_surviving

STOPPING = (signal.SIGTERM, signal.SIGINT)


def on_signals(numbers: Sequence[signal.Signals], call: Callable[[], None]) -> threading.Thread:
    """Call a function, in the thread that is returned, for each of these signals that comes."""
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

    thread = threading.Thread(target=tell, name="signals", daemon=True)
    thread.start()
    return thread


def end_with_parent(
    parent: Connection, ending: Callable[[], None] = lambda: None, hinted: Callable[[], None] = lambda: None
) -> None:
    """End the process when the other end of ``parent`` is closed: the daemon is gone. Ctrl-C is the daemon's affair.

    Parameters
    ----------
    ending
        Called before that.
    hinted
        Called when the daemon gives a hint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group

    def wait() -> None:
        try:
            watch_hints(parent, hinted)
            ending()
        finally:  # without this thread it would outlive the daemon
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def send_hint(connection: Connection) -> None:
    """Hint to the process at the other end of a pipe to look now. Never waits: a hint is lost where many are unread."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.send(b"!", socket.MSG_DONTWAIT)


def watch_hints(connection: Connection, hinted: Callable[[], None]) -> None:
    """Call a function for the hints that come, until the other end is closed."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        while end.recv(4096):
            run_surviving(hinted, "a hint from another process")
