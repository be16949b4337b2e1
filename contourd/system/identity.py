"""Which process this is, on which host, and whether another one that said the same of itself still runs.

A process number alone names nobody: it is given again, and a container has numbers of its own. What it is told apart by
is the time at which the kernel started it (proc(5), field 22 of ``stat``), and whoever shares the kernel's boot and the
namespace of process numbers (pid_namespaces(7)) sees whether it lives.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

MOST_CHARACTERS = 40
STARTED = 19  # of what follows the name in ``stat``, counted from 0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process.

    Attributes
    ----------
    place
        The boot of the kernel and the namespace of process numbers; empty where the system does not say.
    born
        When the kernel started it, in its ticks since the boot; empty where the system does not say.
    """

    host: str
    place: str
    pid: int
    born: str

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Return that of this process."""
        return cls(host_name(), _place(), os.getpid(), _born(os.getpid()))

    def has_ended(self, here: ProcessIdentity) -> bool:
        """Return whether it is certain, seen from another process, that it has ended; False where it cannot be seen."""
        return bool(self.place and self.born) and self.place == here.place and _born(self.pid) != self.born


def host_name() -> str:
    """Return the host's name without its domain."""
    return socket.gethostname().partition(".")[0][:MOST_CHARACTERS] or "host"


def new_process_id() -> str:
    """Make a name that no process had before: host, process number, 32 random bits; at most 64 characters."""
    return f"{host_name()}-{os.getpid()}-{secrets.token_hex(4)}"


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Return when a process was started, empty where there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[STARTED]
