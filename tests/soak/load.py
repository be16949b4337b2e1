"""Series, echoes, bare connections and refusals that load a node, and what its main process and its receivers have
before and after.
"""

from __future__ import annotations

import gc
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.node.receivers.receiver import BEAT_S, COLLECT_S
from tests.chaos.peers import Acknowledged, send
from tests.interop.node import Node, Status, contourd
from tests.peers import LOOPBACK

SLICE_MM, PIXEL_MM, SIZE = 1.0, 4.0, 64
SETTLED_S, LOOK_S = 1.0, 0.25


@dataclass(frozen=True)
class Load:
    """How much; ``warm_up`` of the series associations, and as many echoes each, come before the first measurement."""

    warm_up: int
    associations: int
    instances: int
    echoes: int


@dataclass(frozen=True)
class Footprint:
    """What the main process and its receivers have together."""

    rss_mb: float
    descriptors: int
    threads: int

    def grown(self, since: Footprint) -> Footprint:
        return Footprint(self.rss_mb - since.rss_mb, self.descriptors - since.descriptors, self.threads - since.threads)


@dataclass(frozen=True)
class Limits:
    """How much more a node may have after the load; connections of the database's pool come and go."""

    rss_mb: float
    descriptors: int = 20
    threads: int = 4

    def exceeded(self, grown: Footprint) -> list[str]:
        pairs = (
            ("MB", grown.rss_mb, self.rss_mb),
            ("descriptors", grown.descriptors, self.descriptors),
            ("threads", grown.threads, self.threads),
        )
        return [f"{found:.1f} more {what}, {most:.1f} are allowed" for what, found, most in pairs if found > most]


@dataclass(frozen=True)
class Soaked:
    """Footprints after the warm-up, after the series, and after the associations that bring nothing."""

    warm: Footprint
    stored: Footprint
    idle: Footprint
    delivered: int

    def text(self) -> str:
        rows = (("warmed up", self.warm), ("series", self.stored), ("echoes and connections", self.idle))
        lines = [f"{name:24}{f.rss_mb:8.1f} MB{f.descriptors:6} descriptors{f.threads:5} threads" for name, f in rows]
        grown = self.idle.grown(self.warm)
        return "\n".join(
            [
                *lines,
                f"{'grown by':24}{grown.rss_mb:8.1f} MB{grown.descriptors:6} descriptors{grown.threads:5} threads",
            ]
        )


def soak(node: Node, folder: Path, load: Load, told: Callable[[str], None] = lambda text: None) -> Soaked:
    """Load a node that nobody else uses, and measure it between the parts."""
    processes = reception(node)
    for number in range(load.warm_up):
        send_series(node.port, folder, number, load.instances)
        idle_associations(node.port, load.echoes // max(1, load.associations))
    warm = settled(node, processes, load.warm_up)
    told(f"warm after {load.warm_up} associations")
    for number in range(load.warm_up, load.warm_up + load.associations):
        send_series(node.port, folder, number, load.instances)
        told(f"{(number - load.warm_up + 1) * load.instances} instances, {rss_mb(processes):.1f} MB")
    stored = settled(node, processes, load.warm_up + load.associations)
    idle_associations(node.port, load.echoes)
    idle = settled(node, processes, load.warm_up + load.associations)
    return Soaked(warm, stored, idle, load.warm_up + load.associations)


def send_series(port: int, folder: Path, number: int, instances: int) -> None:
    """Send a series of its own, each image with voxels of its own, over one association."""
    grid = Grid.regular((instances, SIZE, SIZE), (SLICE_MM, PIXEL_MM, PIXEL_MM), (-128.0, -128.0, 0.0))
    z, y, x = (axis * step for axis, step in zip(np.indices(grid.shape), (SLICE_MM, PIXEL_MM, PIXEL_MM), strict=True))
    trunk = ((x - 126) / 80) ** 2 + ((y - 126) / 95) ** 2 <= 1
    ball = (x - 146) ** 2 + (y - 126) ** 2 + (z - instances / 2) ** 2 <= 22.0**2
    noise = np.random.default_rng(number).integers(-20, 20, grid.shape)
    volume = Volume(grid, (np.select([ball, trunk], [400, 40], -1000) + noise).astype(np.int16))
    name = f"soak{number}"
    written = write_ct_series(volume, folder / name, SeriesIdentity(name, f"{name}^Test"))
    acknowledged = Acknowledged()
    send(sorted(written.iterdir()), port, acknowledged)
    assert len(acknowledged.digests) == instances
    shutil.rmtree(written)


def idle_associations(port: int, number: int) -> None:
    """Echo; connect and leave; connect and send no DICOM; call a wrong AE title; abort: each so many times."""
    ae = AE(ae_title="MONITOR")
    ae.add_requested_context(Verification)
    for _ in range(number):
        association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
        assert association.is_established
        association.send_c_echo()
        association.release()
    for _ in range(number):
        with socket.create_connection((LOOPBACK, port), timeout=10):
            pass
    for k in range(number // 10):
        with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if k % 2:
            assert not ae.associate(LOOPBACK, port, ae_title="NOBODY").is_established
        else:
            ae.associate(LOOPBACK, port, ae_title="CONTOURD").abort()
    gc.collect()


def reception(node: Node) -> list[psutil.Process]:
    """Find the main process and those that receive, with the one that starts them."""
    main, below, deadline = psutil.Process(node.server.pid), list[psutil.Process](), time.monotonic() + 60
    while len(below) < 3 and time.monotonic() < deadline:  # two receivers, and what they were forked from
        time.sleep(LOOK_S)
        below = [p for p in main.children(recursive=True) if "multiprocessing.forkserver" in " ".join(p.cmdline())]
    assert len(below) == 3
    return [main, *below]


def rss_mb(processes: Sequence[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 1e6


def settled(node: Node, processes: Sequence[psutil.Process], delivered: int) -> Footprint:
    """Measure once all is delivered and the last association's threads and sockets are gone."""

    def reached(status: Status) -> bool:
        for series in status["series"]:
            if series["state"] == "HELD":  # its sender broke off, and has sent all since
                contourd("release", str(series["id"]), "--config", node.configuration)
        return bool(status["counts"].get("DELIVERED", 0) == delivered)

    node.wait_until(reached, 600)
    time.sleep(COLLECT_S + BEAT_S)  # a receiver lets go of ended associations at a beat that comes so much later
    deadline, since, last = time.monotonic() + 60, time.monotonic(), (0, 0)
    while time.monotonic() < deadline and time.monotonic() - since < SETTLED_S:
        now = (sum(p.num_threads() for p in processes), sum(p.num_fds() for p in processes))
        if now != last:
            since, last = time.monotonic(), now
        time.sleep(LOOK_S)
    return Footprint(rss_mb(processes), last[1], last[0])
