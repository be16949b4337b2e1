"""Campaigns: a node that is killed at one point after another, or at random moments under load."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from tests.chaos.points import STALLED_CONTOURING, STALLED_SENDING, Point
from tests.chaos.server import Struck, wait_until
from tests.chaos.site import Site

SENDERS = 3
MOST_OPEN = 10  # series that are not delivered: else a node that is killed all the time falls ever further behind
# How many kills are of the worker alone; how many wait for a node that listens, and for one that works: those count
# its steps, for a worker on a busy machine may take longer to start than a kill by the clock leaves it.
WORKER_SHARE, LISTENING_SHARE, WORKING_SHARE = 0.3, 0.75, 0.4
MOST_STEPS, STEP_S = 20, 0.3


def strike(site: Site, point: Point) -> None:
    """Bring a node to a point, and see it killed there."""
    server = site.server
    *setting, last = point.faults
    if STALLED_CONTOURING in setting:
        site.contour_all()  # else the worker stalls at what an earlier kill left
    if STALLED_SENDING in setting:
        site.deliver_all()  # else a destination stalls so
    server.start(setting if point.operator else point.faults)
    uid = ""
    with suppress(Struck):
        uid = point.scene(site)
    if point.operator:
        status = server.operate(point.operator, site.job(uid), [last])
        assert status == -9, f"{point.name}: contourd {point.operator[0]} ended with {status}"
    else:
        site.wait_struck()
        if not point.worker_only:
            assert server.wait_dead() == -9, point.name
        elif uid:  # the daemon starts another, which ends the work
            wait_until(partial(_is_done, site, uid), f"{point.name}: work is left")
    site.kills += 1


def _is_done(site: Site, uid: str) -> bool:
    """Say whether nothing more becomes of a series; one whose receiver was killed waits for a person."""
    site.release_broken_off()
    return site.job_state(uid) in ("DELIVERED", "CONFIRMING", "HELD", "FAILED")


def kill_at_points(site: Site, points: Sequence[Point], told: Callable[[str], None] = lambda text: None) -> None:
    for point in points:
        began = time.monotonic()
        strike(site, point)
        told(f"{time.monotonic() - began:5.1f} s  {point.name}")


def kill_at_random(
    site: Site, kills: int, rng: random.Random, longest_s: float, told: Callable[[str], None] = lambda text: None
) -> None:
    """Kill the daemon, or its worker alone, at random moments while several senders send one series after another."""
    site.server.start()
    for kill in range(kills):
        while site.sending() < SENDERS and site.open() < MOST_OPEN:
            site.arrive()
        moment = rng.random()
        if moment < LISTENING_SHARE:
            site.server.wait_listening()
        if moment < WORKING_SHARE:
            site.wait_working(rng.randrange(MOST_STEPS))
        time.sleep(rng.uniform(0.0, STEP_S if moment < WORKING_SHARE else longest_s))
        if rng.random() < WORKER_SHARE:
            site.server.kill_worker()
        else:
            site.server.start()  # kills the one before
        site.kills += 1
        if kill % 20 == 19:
            told(f"{kill + 1} kills, {len(site.acknowledged.digests)} instances acknowledged")
