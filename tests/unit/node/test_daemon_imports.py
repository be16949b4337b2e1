"""The main process stays small: torch is loaded by the worker's process alone."""

from __future__ import annotations

import subprocess
import sys


def test_the_daemon_starts_without_torch() -> None:
    code = "import sys, contourd.node.daemon; print(sorted({'torch', 'scipy', 'matplotlib'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
