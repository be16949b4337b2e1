"""What systemd is told of the daemon (sd_notify(3)): a datagram to the socket that it names, if it names one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

READY = "READY=1"
ALIVE = "WATCHDOG=1"
ENDING = "STOPPING=1"


@dataclass(frozen=True, slots=True)
class ServiceNotifier:
    """Who started the daemon and watches over it.

    Attributes
    ----------
    address
        NOTIFY_SOCKET: a path, or with an at sign an abstract name; empty where nobody listens.
    watchdog_s
        The daemon is killed where it does not tell that it is alive for so long; 0: never.
    """

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> ServiceNotifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; a watchdog of another process is not ours."""
        usec, of = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        ours = usec.isdecimal() and of in ("", str(pid))
        return cls(environment.get("NOTIFY_SOCKET", ""), int(usec) / 1e6 if ours else 0.0)

    def tell(self, state: str) -> None:
        """Send a state; a supervisor that does not listen is no reason to stop."""
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.connect(name)
                sender.send(state.encode())
            except OSError:
                return
