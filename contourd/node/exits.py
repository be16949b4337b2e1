"""How a process ended, in words."""

from __future__ import annotations

import signal

SIGNALS = {
    signal.SIGKILL: "it was killed by the kernel for want of memory, or by hand",
    signal.SIGSEGV: "it crashed (SIGSEGV)",
    signal.SIGABRT: "it aborted (SIGABRT)",
    signal.SIGBUS: "it crashed (SIGBUS)",
}


def exit_text(exit_status: int | None, who: str = "the worker") -> str:
    """Return in words how a process ended."""
    if exit_status is None or exit_status >= 0:
        return f"{who} ended with status {exit_status}"
    number = -exit_status
    return f"{who} died: {SIGNALS.get(signal.Signals(number), f'signal {number}')}"
