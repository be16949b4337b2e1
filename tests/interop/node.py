"""A running `contourd serve`: its configuration, spool and log in one folder, and what `contourd status` says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.peers import LOOPBACK, Ran, free_port, running

CONTOURD = (sys.executable, "-m", "contourd")
# The quiet time must outlast a sender's pause between two associations, no more.
QUIET_S, GAPPED_S = 1.0, 3.0
PAUSE_S = 0.3
Status = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """A contourd that serves on loopback."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes]
    ae_title: str = "CONTOURD"

    @property
    def configuration(self) -> Path:
        return self.folder / "contourd.toml"

    @property
    def log(self) -> str:
        return (self.folder / "contourd.log").read_text(errors="replace")

    def status(self) -> Status:
        ran = contourd("status", "--config", str(self.configuration), "--json")
        assert ran.status == 0, ran.output
        answer: Status = json.loads(ran.output)
        return answer

    def wait_until(self, reached: Callable[[Status], bool], timeout_s: float = 120.0) -> Status:
        """Ask for the status until it is as wanted; fail with the last one and the log."""
        deadline = time.monotonic() + timeout_s
        while not reached(status := self.status()):
            if time.monotonic() > deadline:
                pytest.fail(f"the node did not get there: {json.dumps(status, indent=1)}\n{self.log[-6000:]}")
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the node ended with {self.server.wait(PAUSE_S)}:\n{self.log[-6000:]}")
        return status


def contourd(*arguments: str | Path, timeout_s: float = 300.0) -> Ran:
    """Run one command of contourd to its end."""
    command = [*CONTOURD, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    return Ran(done.returncode, (done.stdout or done.stderr).decode(errors="replace"))


def write_configuration(
    folder: Path,
    port: int,
    model: str | Path | Sequence[str | Path],
    destinations: Mapping[str, tuple[str, int]],
    more: str = "",
    node: str = "",
    route: str = "",
) -> Path:
    """Write a node's settings; ``destinations``: name -> (AE title, port) on loopback."""
    named = str(model) if isinstance(model, str | Path) else list(map(str, model))
    text = f"""
[node]
ae_title = "CONTOURD"
host = "{LOOPBACK}"
port = {port}
{node}
[spool]
root = "{folder / "spool"}"
[series]
quiet_s = {QUIET_S}
gapped_s = {GAPPED_S}
[worker]
device = "cpu"
runtime = "torch"
[delivery]
first_retry_s = 0.5
max_retry_s = 1.0
[[route]]
model = {json.dumps(named, ensure_ascii=False)}
destinations = {json.dumps(list(destinations))}
{route}
"""
    for name, (ae_title, at) in destinations.items():
        text += f'[[destination]]\nname = "{name}"\nae_title = "{ae_title}"\nhost = "{LOOPBACK}"\nport = {at}\n'
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "contourd.toml"
    configuration.write_text(text + more, encoding="utf-8")
    return configuration


@contextmanager
def serve(
    folder: Path,
    model: str | Path | Sequence[str | Path],
    destinations: Mapping[str, tuple[str, int]],
    port: int | None = None,
    more: str = "",
    node: str = "",
    route: str = "",
) -> Iterator[Node]:
    """Run `contourd serve` until the block ends.

    ``more`` is added to the last destination, ``node`` to [node], ``route`` to the route.
    """
    port = port or free_port()
    configuration = write_configuration(folder, port, model, destinations, more, node, route)
    command = [*CONTOURD, "serve", "--config", str(configuration)]
    with running(command, port, folder / "contourd.log") as server:
        yield Node(folder, port, server)
