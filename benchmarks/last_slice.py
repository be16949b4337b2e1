"""From the files of a series in the spool to its structure set at a receiver: on one core, without the network's time.

    python benchmarks/last_slice.py [--runs 3] [--slices 178] [--flame FILE.svg]

The reference patient, resampled to so many slices of 512 x 512, with the bundle that ships. Its network's answers are
computed once beforehand, and looked up where the network would run; everything else is what ``serve`` runs: the
examination of the series when it is quiet, the job's claim, its contouring by the worker with all checks and durable
writes, and the delivery. The quiet time is taken out by setting the clock. Once the node has nothing else to do while
the series arrives and is quiet, and reads ahead; once it is busy with others until then, and reads nothing ahead. The
process has one core; the receiver, which is another machine's, has the rest. Prints the medians of the stages and of
their sum, beside what a usual script takes for the same masks: pydicom reads the series, rt-utils writes the structure
set, DCMTK's dcmsend or pynetdicom sends it. ``--flame`` draws where the time goes, with py-spy, instead.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pydicom
import torch
from answered import MODEL, Answers, LookedUp, prepare, prepared
from figures import Figure, tell
from numpy.typing import NDArray
from rt_utils import RTStructBuilder

from contourd.contour import contouring
from contourd.contour.contouring import ContouringOptions, ContouringResult, contour_series
from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.network.in_memory_scp import InMemorySCP
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.series import Instance, read_instance
from contourd.intake.intake import Intake
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import Predictor, RunOptions
from contourd.node.worker import Worker
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.states import RetryPolicy

LIMIT_S, CHECK_LIMIT_S, QUIET_S = 2.0, 1.0, 15.0
STAGES = ("examine", "claim", "headers", "read", "prepare", "contour", "trace", "write", "check", "record", "deliver")
SCRIPT_STAGES = ("read", "write", "deliver")
PEER = "pydicom + rt-utils + dcmsend"
Seconds = dict[str, tuple[float, float]]


class Stopwatch:
    """Adds up what passes between one mark and the next, under the later one's name.

    Attributes
    ----------
    seconds
        Stage -> on the clock, and of processor time.
    """

    def __init__(self) -> None:
        self.seconds: Seconds = defaultdict(lambda: (0.0, 0.0))
        self._last = (time.perf_counter(), time.process_time())

    def mark(self, stage: str, _: float = 1.0) -> None:
        """End a stage; takes the place of a report of progress."""
        now, before = (time.perf_counter(), time.process_time()), self.seconds[stage]
        self.seconds[stage] = (before[0] + now[0] - self._last[0], before[1] + now[1] - self._last[1])
        self._last = now

    def around(self, stage: str, call: Callable[..., object]) -> Callable[..., object]:
        """Give a stage of its own to a function that runs within the writing."""

        def timed(*arguments: object) -> object:
            self.mark("write")
            result = call(*arguments)
            self.mark(stage)
            return result

        return timed


def median(runs: Sequence[Seconds], stages: Sequence[str], which: int) -> dict[str, float]:
    """Return each stage's median and that of their sum."""
    found = {stage: statistics.median(run[stage][which] for run in runs) for stage in stages}
    return {**found, "sum": statistics.median(sum(of[which] for of in run.values()) for run in runs)}


class Node:
    """A node's parts without its processes, with one series that was received."""

    def __init__(self, root: Path, port: int, files: Path, answers: Answers) -> None:
        self.settings = Settings.model_validate(
            {
                "spool": {"root": root, "min_free_gb": 0},
                "series": {"quiet_s": QUIET_S},
                "worker": {"device": "cpu", "runtime": "torch"},
                "route": [{"model": MODEL, "destinations": ["tps"]}],
                "destination": [{"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", "port": port}],
            }
        )
        self.spool, self.database = Spool(root), Database(self.settings.database_url)
        self.database.upgrade()
        self._passed_s = 0.0
        settings = self.settings
        self.intake = Intake(
            self.database, root, settings.series, settings.route, monotonic=lambda: time.monotonic() + self._passed_s
        )
        self.worker = Worker(self.settings, "benchmark", self._contour)
        self.worker.warm_up()
        options = RunOptions(torch.device("cpu"), choose_runtime=lambda *_: LookedUp(answers))
        self.predictor = predictor_for(load_bundle(MODEL), options=options)
        self.deliveries = Deliveries(self.database, RetryPolicy(1.0, 1.0, 1.0))
        self.watch = Stopwatch()
        self.intake.association_opened(1, "CT", "127.0.0.1")
        for file in sorted(files.iterdir()):
            self._receive(file)
        self.intake.association_closed(1, aborted=False)

    def _receive(self, file: Path) -> None:
        path = self.spool.store_instance([file.read_bytes()])
        header = read_instance(file)
        self.intake.instance_stored(
            ReceivedInstance(
                1,
                "CT",
                header.series_instance_uid,
                header.sop_instance_uid,
                path,
                stored_sha256(file),
                self.spool.pseudonym(header.patient_id),
            )
        )

    def _contour(self, instances: list[Instance], _: Predictor, order: ContouringOptions) -> ContouringResult:
        self.watch.mark("headers")
        return contour_series(instances, self.predictor, order, self.watch.mark)

    def rest(self) -> None:
        """Do what a node does that has nothing else to do while a series is quiet."""
        for _ in range(int(QUIET_S) - 1):
            self.intake.close_quiet()
        self.worker.read_ahead()  # a burst is left alone at first
        while self.worker.read_ahead():
            pass

    def run(self) -> Seconds:
        """Bring the series to its destination; seconds of each stage."""
        self._passed_s += QUIET_S
        self.watch = watch = Stopwatch()
        plain = contouring.check_structure_set
        contouring.check_structure_set = watch.around("check", plain)
        try:
            self.intake.close_quiet()
            watch.mark("examine")
            job = self.worker.fetch_job()
            assert job is not None, "the series was held"
            watch.mark("claim")
            self.worker.run_job(job)
            watch.mark("record")
        finally:
            contouring.check_structure_set = plain
        delivery = self.deliveries.fetch_delivery("tps")
        assert delivery is not None, "the job was held"
        outcome = StorageSCU("CONTOURD").deliver(self.spool.root / delivery.output, self.settings.destination[0])
        self.deliveries.finish_delivery(delivery, outcome)
        watch.mark("deliver")
        return watch.seconds

    def close(self) -> None:
        """Close what was opened, and remove the files."""
        self.worker.close()
        self.database.close()
        shutil.rmtree(self.spool.root)


def script(files: Path, masks: dict[str, NDArray[np.bool_]], port: int, work: Path) -> Seconds:
    """Do what a usual script does for the same masks; seconds of each stage."""
    watch = Stopwatch()
    slices = [pydicom.dcmread(path) for path in sorted(files.iterdir())]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    watch.mark("read")
    builder = RTStructBuilder.create_new(str(files))
    for name, mask in masks.items():
        builder.add_roi(mask.transpose(1, 2, 0), name=name)
    with redirect_stdout(StringIO()):
        builder.save(str(work / "script.dcm"))
    watch.mark("write")
    send = ["dcmsend", "127.0.0.1", str(port), str(work / "script.dcm")]
    if shutil.which("dcmsend") is None:
        send = [sys.executable, "-m", "pynetdicom", "storescu", *send[1:]]
    subprocess.run(send, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "TCP_NODELAY": "1"})
    watch.mark("deliver")
    return watch.seconds


def measure(folder: Path, port: int, runs: int) -> None:
    """Run in turn and tell; the caller gave this process one core."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    answers, masks = prepared(folder)
    kinds: dict[str, list[Seconds]] = {"busy": [], "idle": [], "script": []}
    for _ in range(runs + 1):
        for kind in ("busy", "idle"):
            node = Node(folder / "spool", port, folder / "ct", answers)
            if kind == "idle":
                node.rest()
            kinds[kind].append(node.run())
            node.close()
        kinds["script"].append(script(folder / "ct", masks, port, folder))
    found = {}
    for kind, (_, *counted) in kinds.items():  # the first run loads what is loaded once
        stages = SCRIPT_STAGES if kind == "script" else STAGES
        for which, what in enumerate(("on the clock", "of processor time")):
            found[kind, which] = median(counted, stages, which)
            print(f"{kind}, s {what}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[kind, which].items()))
    theirs = found["script", 0]["sum"]
    for kind, when in (("busy", "nothing read ahead"), ("idle", "read ahead while it arrives")):
        ours = found[kind, 0]["sum"]
        tell(
            Figure(
                f"Last slice to structure set sent, no network, one core, {when}",
                "s",
                ours,
                PEER,
                theirs,
                limit=LIMIT_S,
            )
        )
    tell(
        Figure(
            "Of it, reading the structure set back and comparing it",
            "s",
            found["busy", 0]["check"],
            limit=CHECK_LIMIT_S,
        )
    )


def draw(folder: Path, port: int, runs: int, svg: Path) -> None:
    """Draw where the time of a busy node goes."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    answers, _ = prepared(folder)
    nodes = [Node(folder / f"spool{k}", port, folder / "ct", answers) for k in range(runs + 1)]
    nodes[0].run()
    command = ["py-spy", "record", "--pid", str(os.getpid()), "--rate", "200", "--output", str(svg)]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)  # until it looks
    for node in nodes[1:]:
        node.run()
    spy.send_signal(signal.SIGINT)
    spy.wait()
    for node in nodes:
        node.close()
    drawn = re.sub(
        r"[^\s(<>&;]*/(?=(benchmarks|contourd|pydicom|pynetdicom|numpy|scipy|sqlalchemy|torch)/)", "", svg.read_text()
    )
    svg.write_text(re.sub(r"py-spy record[^<]*", "from the last slice to the structure set at its destination", drawn))


def alone(command: Sequence[str]) -> int:
    """Run a command on one core, from its first line: libraries count the cores when they load."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        process = subprocess.Popen(command)
    finally:
        os.sched_setaffinity(0, cores - {min(cores)} or cores)
    return process.wait()


def main() -> int:
    """Make the series, and measure in a process that has one core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slices", type=int, default=178, help="at least 75: they may lie 5 mm apart")
    parser.add_argument("--keep", type=Path, help="make the series and the answers here, and use them next time")
    parser.add_argument("--flame", type=Path, metavar="FILE")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure and options.flame:
        draw(Path(options.measure[0]), int(options.measure[1]), options.runs, options.flame)
        return 0
    if options.measure:
        measure(Path(options.measure[0]), int(options.measure[1]), options.runs)
        return 0
    with tempfile.TemporaryDirectory() as temporary, InMemorySCP("TPS") as receiver:
        folder = options.keep or Path(temporary)
        if not (folder / "masks.npz").exists():
            prepare(folder, options.slices)
        itself = [sys.executable, __file__, "--runs", str(options.runs)]
        itself += ["--flame", str(options.flame.absolute())] if options.flame else []
        return alone([*itself, "--measure", str(folder), str(receiver.port)])


if __name__ == "__main__":
    sys.exit(main())
