"""Disks of the hosts, and how the object store answers each: as their processes told it with their heartbeats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from contourd.observe.concerns import Concern
from contourd.observe.hosts import GONE, NOBODY_S, SILENT, ProcessLine
from contourd.spool.watching import StoreStanding
from contourd.store.states import ProcessRole


@dataclass(frozen=True, slots=True)
class HostDisk:
    """The file system of one host's spool."""

    host: str
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class HostStore:
    """How the object store answers one host.

    Attributes
    ----------
    waiting
        Images that the host received and that are not in the store yet; None where it receives nothing.
    """

    host: str
    standing: StoreStanding
    waiting: int | None


def disks_of(lines: Iterable[ProcessLine]) -> tuple[HostDisk, ...]:
    """Return the disk of each host of which one is known, by host; of several the one with the least space left."""
    found = dict[str, HostDisk]()
    for line in lines:
        free, size = line.figures.disk_free_bytes, line.figures.disk_size_bytes
        if line.state == GONE or free is None or size is None:
            continue
        if line.host not in found or free < found[line.host].free_bytes:
            found[line.host] = HostDisk(line.host, free, size)
    return tuple(found[host] for host in sorted(found))


def stores_of(lines: Iterable[ProcessLine]) -> tuple[HostStore, ...]:
    """Return how the store answers each host that has asked it, by host: what serves asks on its own, and counts."""
    found = dict[str, HostStore]()
    for line in sorted(lines, key=lambda line: line.role != ProcessRole.SERVE):
        standing = line.figures.store
        if line.state not in (GONE, SILENT) and standing is not None and line.host not in found:
            found[line.host] = HostStore(line.host, standing, line.figures.store_waiting)
    return tuple(found[host] for host in sorted(found))


def disk_concerns(disks: Iterable[HostDisk], least_gb: float) -> list[Concern]:
    """Find hosts whose disks run full."""
    return [
        Concern("disk", f"disk of host {disk.host}", f"less than {least_gb:g} GB of disk are free on host {disk.host}")
        for disk in disks
        if disk.free_bytes / 1e9 < least_gb
    ]


def store_concerns(stores: Iterable[HostStore], now: datetime) -> list[Concern]:
    """Find hosts that the object store has not answered for a while."""
    return [
        Concern("store", f"object store on host {one.host}", f"the object store does not answer host {one.host}")
        for one in stores
        if not one.standing.reachable and (now - one.standing.since).total_seconds() > NOBODY_S
    ]
