"""A signal that comes while the main thread holds the event's own lock: it is told, and nothing waits for itself."""

from __future__ import annotations

import subprocess
import sys
import threading
from multiprocessing import Pipe

from contourd.system.signals import send_hint, watch_hints

WAIT_S = 20.0

PROGRAM = """
import os, signal, threading
from contourd.system.signals import on_signals

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


def test_a_hint_is_heeded_until_the_other_end_is_closed() -> None:
    ours, theirs = Pipe()
    came = threading.Event()
    heeding = threading.Thread(target=watch_hints, args=(theirs, came.set), daemon=True)
    heeding.start()
    for _ in range(2):
        send_hint(ours)
        assert came.wait(WAIT_S)
        came.clear()
    ours.close()
    heeding.join(WAIT_S)
    assert not heeding.is_alive()
    theirs.close()


def test_a_hint_to_one_that_hangs_or_is_gone_is_lost_and_waits_for_nobody() -> None:
    ours, theirs = Pipe()
    giving = threading.Thread(target=lambda: [send_hint(ours) for _ in range(5000)], daemon=True)
    giving.start()
    giving.join(WAIT_S)
    assert not giving.is_alive()
    theirs.close()
    send_hint(ours)
    ours.close()
    send_hint(ours)
