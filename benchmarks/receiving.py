"""Receiving a CT series durably, by `contourd serve` and by its peers.

    python benchmarks/receiving.py [--runs 5] [--slices 178] [--associations 1 4] [--only NAME ...]

DCMTK's dcmsend sends the same slices of 512 x 512 to each receiver in turn, in one association and in four at once,
each with a series of its own. Each receiver is started anew for each run, with an empty store, and is idle when the
sender begins. Nagle's algorithm is off in DCMTK and Orthanc, whose packages stall without. storescp is taken as it is,
and with an fsync of each file, for which a C compiler is needed. pynetdicom is taken as its documentation shows it,
with an fsync of each file too, and records nothing. A receiver that is not installed leaves its rows out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from figures import Figure, tell

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.system.loopback import LOOPBACK, free_port, listens, stop

TITLE = "RECEIVER"
MATRIX, PIXEL_MM, SLICE_MM = 512, 0.9765625, 2.5
# DCMTK's largest; contourd takes more, which dcmsend does not send.
PDU_BYTES = 131072
ASSOCIATIONS = (1, 4)
START_S, SEND_S, IDLE_S, BUSY = 60.0, 300.0, 0.5, 0.04
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
CONTOURD, STORESCP, DURABLE, ORTHANC = "contourd", "storescp", "storescp with fsync", "Orthanc"
PLAIN = "pynetdicom with fsync"
# Receiver and number of associations -> the largest ratio that is aimed at.
GOALS = {(ORTHANC, 1): 1 / 1.5, (DURABLE, 1): 1.3, (ORTHANC, 4): 1.0}


@dataclass(frozen=True, slots=True)
class Receiver:
    """A program that listens; ``command`` returns what starts it for a port and an empty folder."""

    name: str
    command: Callable[[int, Path], Sequence[str]]
    preload: Path | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run took: seconds of the clock, and of all processors together in the receiver."""

    clock_s: float
    processor_s: float


def write_series(folder: Path, slices: int) -> list[Path]:
    """Write as many series of noise as there are associations."""
    corner = -PIXEL_MM * (MATRIX - 1) / 2
    shape = (slices, MATRIX, MATRIX)
    hu = np.random.default_rng(0).integers(-1024, 3071, shape, np.int16)
    volume = Volume(Grid.regular(shape, (SLICE_MM, PIXEL_MM, PIXEL_MM), (corner, corner, 0.0)), hu)
    return [
        write_ct_series(volume, folder / str(i), SeriesIdentity(f"BENCH-{i}", "Noise^Bench"))
        for i in range(max(ASSOCIATIONS))
    ]


def serve(port: int, folder: Path) -> Sequence[str]:
    """Write contourd's configuration; no series is complete before the run is over."""
    configuration = folder / "contourd.toml"
    configuration.write_text(
        f'[node]\nae_title = "{TITLE}"\nhost = "{LOOPBACK}"\nport = {port}\n[spool]\nroot = "{folder / "spool"}"\n'
        '[series]\nquiet_s = 3600\ngapped_s = 3600\n[worker]\ndevice = "cpu"\n[[route]]\nmodel = "hn7"\n'
        'destinations = ["nowhere"]\n'
        f'[[destination]]\nname = "nowhere"\nae_title = "NOWHERE"\nhost = "{LOOPBACK}"\nport = 11113\n'
    )
    return (sys.executable, "-m", "contourd", "serve", "--config", str(configuration))


def storescp(port: int, folder: Path) -> Sequence[str]:
    """Let DCMTK write what comes, bit by bit, in a process for each association."""
    received = folder / "received"
    received.mkdir()
    return ("storescp", "+B", "--fork", "--max-pdu", str(PDU_BYTES), "-aet", TITLE, "-od", str(received), str(port))


def orthanc(port: int, folder: Path) -> Sequence[str]:
    """Write Orthanc's configuration: its defaults, but for where it listens and stores."""
    store = str(folder / "store")
    settings = {"StorageDirectory": store, "IndexDirectory": store, "DicomAet": TITLE, "DicomPort": port}
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps({**settings, "HttpPort": free_port(), "Plugins": []}))
    return ("Orthanc", str(configuration))


def plain(port: int, folder: Path) -> Sequence[str]:
    """Let pynetdicom write what comes, in a thread for each association."""
    program = str(Path(__file__).parent / "plain_scp.py")
    return (sys.executable, program, str(port), str(folder), TITLE, str(PDU_BYTES))


def receivers(folder: Path) -> list[Receiver]:
    """Name those that are installed; contourd comes first."""
    found = [Receiver(CONTOURD, serve), Receiver(PLAIN, plain)]
    if installed("storescp"):
        found.append(Receiver(STORESCP, storescp))
        if installed("cc"):
            library = folder / "durable.so"
            source = Path(__file__).parent / "durable.c"
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
            found.append(Receiver(DURABLE, storescp, library))
    if installed("Orthanc"):
        found.append(Receiver(ORTHANC, orthanc))
    return found


def installed(program: str) -> bool:
    """Say whether a program is there, and print it where it is not."""
    if shutil.which(program, path=PATH) is not None:
        return True
    print(f"{program} is not installed: its rows are left out")
    return False


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program of DCMTK or Orthanc."""
    return {**os.environ, "PATH": PATH, "TCP_NODELAY": "1", **more}


def processor_s(process: psutil.Process) -> float:
    """Return the processor time of a process and all below it."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total


@contextmanager
def running(receiver: Receiver, folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Run a receiver until the block ends; it is idle when the block begins."""
    port = free_port()
    more = {"LD_PRELOAD": str(receiver.preload)} if receiver.preload is not None else {}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            receiver.command(port, folder),
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        process, deadline = psutil.Process(server.pid), time.monotonic() + START_S
        while not listens(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{receiver.name} does not listen:\n{(folder / 'log').read_text()}")
            time.sleep(0.05)
        before = processor_s(process)
        while time.monotonic() < deadline:
            time.sleep(IDLE_S)
            spent, before = processor_s(process) - before, processor_s(process)
            if spent < BUSY * IDLE_S:
                break
        yield port, process
    finally:
        stop(server, START_S)


def send(port: int, series: Sequence[Path], slices: int) -> None:
    """Send each series in an association of its own, all at once; raises RuntimeError where one is not taken whole."""
    command = ("dcmsend", "-v", "-aec", TITLE, "--scan-directories", "--no-halt", LOOPBACK, str(port))
    senders = [
        subprocess.Popen(
            (*command, str(folder)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for folder in series
    ]
    for sender in senders:
        said, _ = sender.communicate(timeout=SEND_S)
        if f"with status SUCCESS  : {slices}" not in said:
            raise RuntimeError(f"not every slice was taken:\n{said[-2000:]}")


def measure(receiver: Receiver, series: Sequence[Path], slices: int, folder: Path) -> Taken:
    """Let a receiver take the series once, into an empty folder."""
    with running(receiver, folder) as (port, process):
        touch_memory(folder / "memory", sum(p.stat().st_size for one in series for p in one.iterdir()))
        os.sync()
        before, began = processor_s(process), time.perf_counter()
        send(port, series, slices)
        taken = Taken(time.perf_counter() - began, processor_s(process) - before)
    empty(folder)
    return taken


def touch_memory(path: Path, size_bytes: int) -> None:
    """Use twice as much memory as will be written, and let go of it.

    The host of a virtual machine takes back what is free, and whoever writes there first waits for it. Without this
    it is contourd alone that waits, which has just filled the memory that the run before let go of with a network.
    """
    chunk = bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(2 * size_bytes // len(chunk)):
            file.write(chunk)
    path.unlink()


def empty(folder: Path) -> None:
    """Free the disk of a run without removing its files.

    ext4 without a journal looks at each inode that was removed within five minutes before it makes a file.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def floor_s(series: Path, folder: Path) -> float:
    """Time what nobody can spare: each file written into an empty folder and fsynced."""
    contents = [path.read_bytes() for path in sorted(series.iterdir())]
    began = time.perf_counter()
    for number, content in enumerate(contents):
        with (folder / str(number)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    taken = time.perf_counter() - began
    empty(folder)
    return taken


def report(taken: Mapping[str, Sequence[Taken]], associations: int, slices: int, floor: float) -> None:
    """Print the medians, and tell contourd's figures."""
    medians = {name: statistics.median(t.clock_s for t in runs) for name, runs in taken.items()}
    for name, runs in taken.items():
        processor = statistics.median(t.processor_s for t in runs)
        print(f"{associations} x {slices} slices, {name}: {medians[name]:.2f} s, processor {processor:.2f} s")
    if CONTOURD not in medians:
        return
    times = "1 association" if associations == 1 else f"{associations} associations"
    for name in (PLAIN, STORESCP, DURABLE, ORTHANC):
        if name in medians:
            subject = f"Receiving {slices} slices durably, {times}, beside {name}"
            goal = GOALS.get((name, associations))
            tell(Figure(subject, "s", medians[CONTOURD], name, medians[name], goal=goal, floor=floor * associations))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slices", type=int, default=178)
    parser.add_argument("--associations", type=int, nargs="+", default=list(ASSOCIATIONS), choices=ASSOCIATIONS)
    parser.add_argument("--only", nargs="+", help="receivers, by name")
    arguments = parser.parse_args()
    if not installed("dcmsend"):
        return
    with tempfile.TemporaryDirectory() as scratch:
        series = write_series(Path(scratch) / "ct", arguments.slices)
        found = [r for r in receivers(Path(scratch)) if not arguments.only or r.name in arguments.only]
        for associations in arguments.associations:
            taken: dict[str, list[Taken]] = {receiver.name: [] for receiver in found}
            floors = []
            for _ in range(arguments.runs):
                floors.append(floor_s(series[0], Path(tempfile.mkdtemp(dir=scratch))))
                for receiver in found:
                    folder = Path(tempfile.mkdtemp(dir=scratch))
                    taken[receiver.name].append(measure(receiver, series[:associations], arguments.slices, folder))
            report(taken, associations, arguments.slices, statistics.median(floors))


if __name__ == "__main__":
    main()
