"""Whether the hosts that share the database are heard of, are of one version, and can do what is queued."""

from __future__ import annotations

from datetime import UTC, datetime

from contourd import __version__
from contourd.checks.finding import CheckFinding, failed, ok, unknown
from contourd.observe.host_figures import disks_of, stores_of
from contourd.observe.hosts import GONE, SILENT, ProcessLine, read_hosts
from contourd.store.database import Database, has_queue
from contourd.store.tables import SCHEMA_REVISION


def hosts(url: str, least_gb: float) -> CheckFinding:
    """Read what the processes of all hosts say of themselves, and what others noticed of them.

    Parameters
    ----------
    least_gb
        So much disk is to be free on each.
    """
    if not has_queue(url):
        return ok("nothing serves yet")
    database = Database(url)
    try:
        if database.revision() != SCHEMA_REVISION:
            return unknown("the database is of another version; what `database` says comes first")
        lines = read_hosts(database, datetime.now(UTC))
    finally:
        database.close()
    return _judged(lines, least_gb)


def _judged(lines: tuple[ProcessLine, ...], least_gb: float) -> CheckFinding:
    named = [f"{one.role} of {one.host}" for one in lines if one.state in (GONE, SILENT)]
    if named:
        return failed(
            f"not heard of: {', '.join(named)}",
            "look at that host and its log, and start contourd there; whoever does not come back is forgotten in a day",
        )
    if other := sorted({f"{one.version} ({one.host})" for one in lines if one.version != __version__}):
        return failed(
            f"this is contourd {__version__}; others are {', '.join(other)}",
            "install the same version on all hosts: a worker leaves to others what was ordered of another version",
        )
    if declined := sorted({f"{one.host}: {reason}" for one in lines for reason in one.declined}):
        return failed("; ".join(declined), "give the host what is named there")
    if away := [one for one in stores_of(lines) if not one.standing.reachable]:
        return failed(
            "; ".join(f"{one.host} since {one.standing.since.astimezone():%H:%M}: {one.standing.said}" for one in away),
            "bring the object store back, or the way to it from that host; what waits goes on by itself",
        )
    if full := [one for one in disks_of(lines) if one.free_bytes / 1e9 < least_gb]:
        return failed(
            "; ".join(f"{one.host} has {one.free_bytes / 1e9:.1f} GB of disk free" for one in full),
            f"make room on that host, for at least {least_gb:g} GB, or lower spool.cache_gb there",
        )
    if not lines:
        return ok("nothing serves now")
    return ok(", ".join(f"{one.role} of {one.host}" for one in lines))
