"""``contourd serve`` as a process of its own that can be killed, and what is asked of it."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.faults import MARKER, THREAD, VARIABLE, Fault, pack
from tests.peers import LOOPBACK

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = (sys.executable, "-m", "tests.chaos.launcher")
LOOK_S = 0.1
WAIT_S = 300.0


class Timeout(AssertionError):
    """What was waited for did not come."""


class Struck(Exception):
    """The fault struck before the scene was over: the node is dead."""


def wait_until(reached: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise Timeout(what)
        time.sleep(LOOK_S)
    return found


class Server:
    """``contourd serve`` under the launcher."""

    def __init__(self, folder: Path, configuration: Path, port: int, page_port: int = 0) -> None:
        self.folder, self.configuration, self.port, self.page_port = folder, configuration, port, page_port
        self.spool = folder / "spool"
        self.log = folder / "contourd.log"
        self.running: subprocess.Popen[bytes] | None = None
        self._marker, self._thread = folder / "struck", folder / "thread"

    def start(self, faults: Sequence[Fault] = ()) -> None:
        """Start it, a killed one again."""
        if self.running is not None:
            self.kill()
        self._marker.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [*LAUNCHER, "serve", "--config", str(self.configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self._environment(faults),
            )

    def operate(self, command: tuple[str, ...], number: int, faults: Sequence[Fault] = ()) -> int:
        """Run an operator's command about a job to its end; returns the exit status.

        Without faults of its own it leaves the mark of one that has struck: the node's would strike again.
        """
        if faults:
            self._marker.unlink(missing_ok=True)
        arguments = [*LAUNCHER, *command, str(number), "--config", str(self.configuration)]
        with self.log.open("ab") as log:
            return subprocess.run(
                arguments, stdout=log, stderr=log, cwd=ROOT, env=self._environment(faults), timeout=WAIT_S, check=False
            ).returncode

    def _environment(self, faults: Sequence[Fault]) -> dict[str, str]:
        return {**os.environ, VARIABLE: pack(faults), MARKER: str(self._marker), THREAD: str(self._thread)}

    def end_thread(self, name: str) -> None:
        """Have a thread of the main process end where it is; what it waits for is made to come."""
        assert self.running is not None
        self._thread.write_text(name)
        wait_until(lambda: not self._thread.exists(), f"{name} was not told to end")
        if name == "signals":
            self.running.send_signal(signal.SIGINT)
        with suppress(OSError):
            socket.create_connection((LOOPBACK, self.port), timeout=5).close()

    def wait_listening(self) -> None:
        """Wait until it listens; a machine that is busy with other things takes its time."""
        assert self.running is not None
        wait_until(self._listens, f"contourd does not listen on {self.port}")

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=5):
            return True
        assert self.running is not None
        assert self.running.poll() is None, f"contourd ended with {self.running.returncode}:\n{self.tail()}"
        return False

    @property
    def struck(self) -> bool:
        return self._marker.exists()

    def wait_dead(self) -> int:
        assert self.running is not None
        return self.running.wait(WAIT_S)

    def terminate(self) -> None:
        assert self.running is not None
        self.running.terminate()

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait()

    def kill_worker(self) -> None:
        assert self.running is not None
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.running.pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database, without being the one who recovers it."""
        path = self.spool / "contourd.sqlite"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.OperationalError:  # it has no tables yet
                return []

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]
