"""The main job end to end on loopback: a node, a receiver, a CT sent by C-STORE, the structure set, and a picture."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from contourd.acceptance.reference_patient import reference_masks, reference_series
from contourd.contour.pictures import draw_contours
from contourd.dicom.network.in_memory_scp import InMemorySCP
from contourd.dicom.network.sender import send_series
from contourd.dicom.reading.series import Instance, find_series, gate, read_volume
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from contourd.errors import ContourdError, NodeError
from contourd.settings import Destination
from contourd.system.loopback import LOOPBACK, free_port, listens, stop

PAUSE_S = 0.5
LIMIT_S = 900.0
STOP_S = 90.0
CONFIGURATION = """# Written by `contourd demo`.
[node]
host = "{host}"
port = {port}
[spool]
root = "{spool}"
min_free_gb = 0.5
[series]
quiet_s = 2.0
gapped_s = 6.0
[[destination]]
name = "receiver"
ae_title = "RECEIVER"
host = "{host}"
port = {receiver}
[[route]]
model = "hn7"
destinations = ["receiver"]
"""


def run(ct: Path | None, output: Path) -> int:
    """Contour a CT folder, or the reference patient, through a node of its own; returns the exit status.

    Raises
    ------
    ContourdError
        The folder holds no usable CT, the node did not start, or the series was held: with the reason.
    """
    console = Console(highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    folder = ct or _reference(output / "ct", console)
    if not folder.is_dir():
        raise NodeError(f"{folder} is no folder")
    found = {uid: i for uid, i in find_series(folder).items() if i[0].modality == "CT"}
    if not found:
        raise NodeError(f"{folder} holds no CT series")
    instances = max(found.values(), key=len)
    spool = output / "spool"
    shutil.rmtree(spool, ignore_errors=True)
    with InMemorySCP("RECEIVER") as receiver:
        port = free_port()
        configuration = output / "contourd.toml"
        text = CONFIGURATION.format(host=LOOPBACK, port=port, spool=spool.resolve(), receiver=receiver.port)
        configuration.write_text(text, encoding="utf-8")
        with _serving(configuration, port, output / "serve.log"):
            console.print(f"contourd serves on {LOOPBACK}:{port}, a receiving node on {LOOPBACK}:{receiver.port}")
            _send(instances, port, console)
            _wait(configuration, len(instances), console)
        received = receiver.datasets
    if len(received) != 1:
        raise NodeError(
            f"the receiving node got {len(received)} structure sets instead of one; see {output / 'serve.log'}"
        )
    received[0].save_as(output / "rtstruct.dcm", enforce_file_format=True)
    _show(instances, received[0], output, ct is None, console)
    return 0


def _reference(folder: Path, console: Console) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    console.print("writing the reference patient (a population mean, nobody's image) as a 512 x 512 CT series")
    return reference_series(folder)


@contextmanager
def _serving(configuration: Path, port: int, log: Path) -> Iterator[None]:
    command = [sys.executable, "-P", "-m", "contourd", "serve", "--config", str(configuration)]
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not listens(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"contourd did not start:\n{log.read_text(errors='replace')}")
            time.sleep(PAUSE_S)
        yield
    finally:
        stop(server, STOP_S)


def _send(instances: Sequence[Instance], port: int, console: Console) -> None:
    with _bar(console) as progress:
        task = progress.add_task("sending by C-STORE", total=len(instances))
        node = Destination(name="contourd", ae_title="CONTOURD", host=LOOPBACK, port=port)
        send_series([i.path for i in instances], "DEMO", node, lambda: progress.advance(task))


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _wait(configuration: Path, images: int, console: Console) -> None:
    """Follow the series by ``contourd status --json`` until its structure set is delivered."""
    deadline, shown = time.monotonic() + LIMIT_S, ""
    while time.monotonic() < deadline:
        stage, ended = _stage(_status(configuration), images)
        if stage != shown:
            console.print(f"  {stage}")
            shown = stage
        if ended:
            return
        time.sleep(PAUSE_S)
    raise NodeError(f"no structure set came in {LIMIT_S:.0f} s; the last that was seen: {shown}")


def _status(configuration: Path) -> Mapping[str, Any]:
    command = [sys.executable, "-P", "-m", "contourd", "status", "--json", "--config", str(configuration)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise NodeError(f"the status of the node could not be read: {done.stderr.decode(errors='replace')}")
    answer: Mapping[str, Any] = json.loads(done.stdout)
    return answer


def _stage(status: Mapping[str, Any], images: int) -> tuple[str, bool]:
    """Return in words how far the series is, and whether it has arrived."""
    for series in status["series"]:
        if series["state"] == "HELD":
            raise ContourdError(f"the series is held: {series['reason']}")
        return f"received {series['instances']} of {images} images; waiting until the series is quiet", False
    for job in status["jobs"]:
        if job["state"] in ("HELD", "FAILED"):
            raise ContourdError(f"the job is {job['state'].lower()}: {job['reason']}")
        words = {
            "QUEUED": "queued for the worker",
            "CONTOURING": f"contouring with {job['model']}",
            "DELIVERING": "sending the structure set",
            "DELIVERED": "delivered",
        }
        return words.get(job["state"], job["state"]), job["state"] == "DELIVERED"
    return "nothing received yet", False


def _show(instances: Sequence[Instance], dataset: Any, output: Path, is_reference: bool, console: Console) -> None:
    series = gate(instances)
    volume = read_volume(series)
    masks = {roi.name: rasterise(roi.contours, series.grid) for roi in read_structure_set(dataset)}
    truths = reference_masks(series.grid) if is_reference else {}
    for name, mask in masks.items():
        volume_cc = series.grid.volume_mm3(mask) / 1000
        text = f"   Dice {_dice(mask, truths[name]):.2f} against the mean contour" if name in truths else ""
        console.print(f"{name:<16} {volume_cc:7.1f} cc{text}", highlight=False)
    picture = output / "contours.png"
    draw_contours(volume, masks, picture, "AI generated, not reviewed")
    console.print(
        f"structure set  {output / 'rtstruct.dcm'}\npicture        {picture}", highlight=False, soft_wrap=True
    )


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")
