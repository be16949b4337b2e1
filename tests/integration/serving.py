"""What is sent to a node that runs, and waiting for what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from tests.bright import phantom
from tests.interop.node import Node
from tests.peers import LOOPBACK

OUT_OF_RESOURCES = 0xA700
WAIT_S = 90.0


def send(port: int, paths: list[Path]) -> Mapping[Path, int]:
    """Send files in one association; path -> status."""
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
    assert association.is_established
    statuses = {path: int(association.send_c_store(path).Status) for path in paths}
    association.release()
    return statuses


def series(folder: Path, patient: str) -> list[Path]:
    return sorted(write_ct_series(phantom(), folder / patient, SeriesIdentity(patient, f"{patient}^Test")).iterdir())


def worker_of(node: Node) -> psutil.Process:
    found: list[psutil.Process] = []

    def begun() -> bool:
        children = psutil.Process(node.server.pid).children()
        found[:] = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return bool(found)

    wait(begun, node)
    return found[0]


def wait(reached: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert node.server.poll() is None, node.log[-4000:]
        assert time.monotonic() < deadline, node.log[-4000:]
        time.sleep(0.05)
