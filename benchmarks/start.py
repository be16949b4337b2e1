"""How soon contourd is there: its help, its status, and the first association that a starting node accepts.

    python benchmarks/start.py [--runs 5]

Medians. ``contourd --help`` stands beside Python with typer and rich imported and nothing done, ``contourd status``
beside Python with the libraries that it reads the queue with, and ``contourd serve``, from exec to its first accepted
association, beside Orthanc; DCMTK's storescp is printed, for it does nothing else. The node's model is loaded by
another process, which is not waited for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from figures import Figure, tell
from node import associates, association_request, configure, running

from contourd.store.database import Database
from contourd.system.loopback import LOOPBACK, free_port

AGAIN_S, GIVE_UP_S = 0.01, 120.0
HELP_S, STATUS_S, SERVE_S = 0.3, 0.8, 3.0
CONTOURD = (sys.executable, "-m", "contourd")
PYTHON = (sys.executable, "-c")
ORTHANC, STORESCP = "Orthanc", "storescp"


def run_s(command: Sequence[str]) -> float:
    """Time a command from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def medians_s(commands: dict[str, Sequence[str]], runs: int) -> dict[str, float]:
    """Time commands in turn; a first run of each, which warms the disk's cache, does not count."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            took = run_s(command)
            if number:
                times[name].append(took)
    return {name: statistics.median(found) for name, found in times.items()}


def first_association_s(command: Sequence[str], port: int, ae_title: str, log: Path) -> float:
    """Start a server, time it from exec to the first association that it accepts, and end it."""
    request = association_request(ae_title)
    began = time.perf_counter()
    with running(command, log) as server:
        while not associates(port, request):
            if server.poll() is not None or time.perf_counter() - began > GIVE_UP_S:
                raise SystemExit(f"{command[0]} accepts no association:\n{log.read_text(errors='replace')}")
            time.sleep(AGAIN_S)
        return time.perf_counter() - began


def orthanc_command(folder: Path, port: int) -> list[str]:
    """Write the settings of an Orthanc with an empty store; return how it is started."""
    store = folder / "orthanc"
    store.mkdir(exist_ok=True)
    settings = {
        "StorageDirectory": str(store),
        "IndexDirectory": str(store),
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "HttpPort": free_port(),
        "Plugins": [],
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return [program(ORTHANC) or ORTHANC, str(file)]


def program(name: str) -> str | None:
    """Find a peer's program; Debian keeps Orthanc where root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def commands_of(folder: Path, port: int) -> dict[str, tuple[str, list[str]]]:
    """Return AE title and command of each server that is installed."""
    settings = configure(folder, port, "hn7", {"PACS": free_port()})
    commands = {"contourd": ("CONTOURD", [*CONTOURD, "serve", "--config", str(settings)])}
    if program(ORTHANC):
        commands[ORTHANC] = ("ORTHANC", orthanc_command(folder, port))
    if found := program(STORESCP):
        commands[STORESCP] = ("STORESCP", [found, "-od", str(folder), str(port)])
    return commands


def starts(folder: Path, runs: int) -> dict[str, float]:
    """Start each server some times in turn, each with an empty store; those that are not installed are left out."""
    times: dict[str, list[float]] = {}
    for number in range(runs):
        port, own = free_port(), folder / f"start{number}"
        for name, (title, command) in commands_of(own, port).items():
            took = first_association_s(command, port, title, own / f"{name}.log")
            times.setdefault(name, []).append(took)
    for name in {ORTHANC, STORESCP} - times.keys():
        print(f"{name} is not installed: no figure beside it")
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = configure(folder, free_port(), "hn7", {"PACS": 104})
        (folder / "spool").mkdir()
        database = Database(f"sqlite:///{folder / 'spool' / 'contourd.sqlite'}")
        database.upgrade()
        database.close()
        took = medians_s(
            {
                "python": (*PYTHON, "pass"),
                "help": (*CONTOURD, "--help"),
                "typer": (*PYTHON, "import typer, rich"),
                "status": (*CONTOURD, "status", "--config", str(settings)),
                "libraries": (
                    *PYTHON,
                    "import typer, rich.table, pydantic, sqlalchemy.orm, sqlalchemy.dialects.sqlite",
                ),
            },
            runs,
        )
        floor = took["python"]
        beside = "Python with typer and rich"
        tell(Figure("`contourd --help`", "s", took["help"], beside, took["typer"], limit=HELP_S, floor=floor))
        beside = "Python with typer, rich, pydantic and SQLAlchemy"
        tell(Figure("`contourd status`", "s", took["status"], beside, took["libraries"], limit=STATUS_S, floor=floor))
        began = starts(folder, runs)
        subject = "`contourd serve`, from exec to its first accepted association"
        peer = {"peer": ORTHANC, "theirs": began[ORTHANC]} if ORTHANC in began else {}
        tell(Figure(subject, "s", began["contourd"], limit=SERVE_S, **peer))
        if STORESCP in began:
            print(f"{STORESCP}: {began[STORESCP]:.3g} s to its first accepted association on {LOOPBACK}")


if __name__ == "__main__":
    main()
