"""A receiver as the first process sees it: its process, what it has, and its end, whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess


@dataclass(slots=True, eq=False)
class ReceiverProcess:
    """A process that receives, and how many connections it has.

    It is a child of the fork server. Where that has died, ``multiprocessing`` takes its children for dead, too, and
    kills none of them: so the system is asked, by a descriptor of the process (pidfd_open(2)).

    Attributes
    ----------
    unanswered
        C-ECHOs of the node itself, one after the other, that it did not answer.
    """

    process: BaseProcess
    control: Connection
    handing: socket.socket
    began: float = field(default_factory=time.monotonic)
    connections: int = 0
    unanswered: int = 0
    _descriptor: int = -1

    def __post_init__(self) -> None:
        with suppress(OSError):  # it has died already; or a system that has no such descriptors
            self._descriptor = os.pidfd_open(self.process.pid or -1)

    def alive(self, wait_s: float = 0.0) -> bool:
        """Return whether the process is there; wait for its end for so long."""
        if self._descriptor < 0:
            self.process.join(wait_s)
            return self.process.is_alive()
        return not wait([self._descriptor], wait_s)

    def kill(self) -> None:
        """End the process, whatever it does."""
        with suppress(OSError):  # it has ended
            if self._descriptor < 0:
                self.process.kill()
            else:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Release what it was spoken to by."""
        self.control.close()
        self.handing.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
