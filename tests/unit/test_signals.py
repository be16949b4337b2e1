"""A signal that comes while the main thread holds the event's own lock: it is told, and nothing waits for itself."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, threading
from contourd.signals import on_signals

told = threading.Event()
on_signals([signal.SIGTERM], told.set)
with told._cond:  # as in the middle of told.wait()
    os.kill(os.getpid(), signal.SIGTERM)
assert told.wait(20)
print("told")
"""


def test_a_signal_in_the_middle_of_a_wait() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "told\n"), ran.stderr
