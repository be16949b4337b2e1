"""Servers that run on this machine for a while: the demo's node, and the nodes and peers of tests and benchmarks."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether a port of loopback is listened on."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def stop(server: subprocess.Popen[bytes], wait_s: float) -> None:
    """Send a server SIGTERM by its own pid, and SIGKILL if that does not help in time."""
    server.terminate()
    try:
        server.wait(wait_s)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
