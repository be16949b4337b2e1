"""Blows at several hosts, their database and their store, one after another or at random moments under load."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from tests.chaos.hosts import Hosts
from tests.chaos.server import wait_until

SENDERS, MOST_OPEN = 3, 8
# Longer than a lease: whoever hung comes back to a job or a delivery that is another's.
HANGS_AFTER_LEASE_S = 2.0
AWAY_S = (0.5, 4.0)
# How long a link is broken: shorter, and longer, than a lease.
BROKEN_S, BROKEN_LEASES = 1.0, 3.0
MINUTE_S = 60.0
BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = 'contourd' ORDER BY random() LIMIT 1"


@dataclass(frozen=True)
class HostBlow:
    """What is done, and how often among those at random."""

    name: str
    strike: Callable[[Hosts, random.Random], None]
    weight: float = 1.0


def _receiver_off(hosts: Hosts, rng: random.Random) -> None:
    host = rng.choice(hosts.receivers)
    host.kill()
    time.sleep(rng.uniform(*AWAY_S))
    host.start()


def _worker_off(hosts: Hosts, rng: random.Random) -> None:
    host = rng.choice(hosts.workers)
    host.kill()
    time.sleep(rng.uniform(*AWAY_S))
    host.start()


def _worker_process(hosts: Hosts, rng: random.Random) -> None:
    rng.choice(hosts.workers).kill_worker()


def _worker_hangs(hosts: Hosts, rng: random.Random) -> None:
    _hang(hosts, rng, contouring=True)


def _receiver_hangs(hosts: Hosts, rng: random.Random) -> None:
    _hang(hosts, rng, contouring=False)


def _hang(hosts: Hosts, rng: random.Random, contouring: bool) -> None:
    host = rng.choice(hosts.workers if contouring else hosts.receivers)
    if contouring:  # one that has a job, if any has: what it brings then is late
        busy = [row[0] for row in hosts.ask_or("SELECT worker FROM jobs WHERE state = 'CONTOURING'")]
        host = next((one for one in hosts.workers if any(str(name).startswith(one.name) for name in busy)), host)
    host.signal(signal.SIGSTOP)
    time.sleep(hosts.lease_s + HANGS_AFTER_LEASE_S)
    host.signal(signal.SIGCONT)


def _backend(hosts: Hosts, rng: random.Random) -> None:  # noqa: ARG001
    for (pid,) in hosts.ask_or(BACKEND):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the postmaster ends all others, and recovers


def _postmaster(hosts: Hosts, rng: random.Random) -> None:
    hosts.cluster.stop(signal.SIGQUIT)  # as pg_ctl stop -m immediate
    time.sleep(rng.uniform(*AWAY_S))
    hosts.cluster.start()


def _store_away(hosts: Hosts, rng: random.Random) -> None:
    hosts.bucket.fault = lambda method, path: "away"
    time.sleep(rng.uniform(1.0, 2 * AWAY_S[1]))
    hosts.bucket.fault = lambda method, path: ""


def _store_away_for_a_minute(hosts: Hosts, rng: random.Random) -> None:  # noqa: ARG001
    hosts.bucket.fault = lambda method, path: "away"
    time.sleep(MINUTE_S)
    hosts.bucket.fault = lambda method, path: ""


def _link_of_receiver(hosts: Hosts, rng: random.Random) -> None:
    _break(hosts, rng.choice(hosts.receivers).name, rng)


def _link_of_worker(hosts: Hosts, rng: random.Random) -> None:
    busy = [str(row[0]) for row in hosts.ask_or("SELECT worker FROM jobs WHERE state = 'CONTOURING'")]
    names = [host.name for host in hosts.workers]
    busy_ones = [name for name in names if any(one.startswith(name) for one in busy)]
    _break(hosts, rng.choice(busy_ones or names), rng)


def _break(hosts: Hosts, name: str, rng: random.Random) -> None:
    assert hosts.network is not None
    hosts.network.pull(name, out=True)
    try:
        time.sleep(rng.uniform(BROKEN_S, BROKEN_LEASES * hosts.lease_s))
    finally:
        hosts.network.pull(name, out=False)


BLOWS = (
    HostBlow("a receiver is switched off", _receiver_off, 2.0),
    HostBlow("a worker is switched off", _worker_off, 2.0),
    HostBlow("the process that contours is killed", _worker_process),
    HostBlow("a worker hangs for longer than its lease", _worker_hangs),
    HostBlow("a receiver hangs for longer than a lease", _receiver_hangs, 0.5),
    HostBlow("a backend of PostgreSQL is killed", _backend),
    HostBlow("PostgreSQL is ended at once", _postmaster),
    HostBlow("the store is away", _store_away),
)
# Where hosts have networks of their own.
LINKS = (
    HostBlow("the link of a receiver is broken", _link_of_receiver, 1.5),
    HostBlow("the link of a worker is broken", _link_of_worker, 1.5),
)
LONG = (HostBlow("the store is away for a minute", _store_away_for_a_minute, 0.3),)


def in_short(hosts: Hosts) -> tuple[tuple[HostBlow, ...], ...]:
    """Return each of them once: those that are waited for longest, a hang and a broken link, at the same time."""
    if hosts.network is None:
        return tuple((blow,) for blow in BLOWS)
    of_receiver, of_worker = LINKS
    with_link = {_worker_hangs: of_receiver, _receiver_hangs: of_worker}
    return tuple((blow, with_link[blow.strike]) if blow.strike in with_link else (blow,) for blow in BLOWS)


def blows_of(hosts: Hosts) -> tuple[HostBlow, ...]:
    """Return what can be done to these hosts."""
    return (*BLOWS, *LINKS) if hosts.network is not None else BLOWS


def _tell_nobody(text: str) -> None:
    pass


def strike_each(
    hosts: Hosts,
    together: Sequence[Sequence[HostBlow]],
    rng: random.Random,
    told: Callable[[str], None] = _tell_nobody,
) -> None:
    """Strike each blow while a series comes and another is contoured; some of them at the same time."""
    hosts.start()
    hosts.wait_listening()
    for blows in together:
        hosts.arrive()
        wait_until(lambda: _at_work(hosts), "nothing is at work")
        with ThreadPoolExecutor(len(blows)) as pool:
            for done in [pool.submit(_strike, hosts, blow, rng, told) for blow in blows]:
                done.result()


def _at_work(hosts: Hosts) -> bool:
    """Return whether anything is received, contoured or sent, or is over already."""
    return hosts.sending() == 0 or bool(hosts.ask_or("SELECT 1 FROM jobs WHERE state IN ('CONTOURING', 'DELIVERING')"))


def strike_at_random(hosts: Hosts, kills: int, rng: random.Random, told: Callable[[str], None] = _tell_nobody) -> None:
    """Strike at random moments while several senders send one series after another."""
    hosts.start()
    hosts.wait_listening()
    blows = (*blows_of(hosts), *LONG)
    weights = [blow.weight for blow in blows]
    for _ in range(kills):
        while hosts.sending() < SENDERS and hosts.open() < MOST_OPEN:
            hosts.arrive()
        if hosts.open() >= MOST_OPEN:  # else hosts that are killed all the time fall ever further behind
            wait_until(lambda: _caught_up(hosts), "the hosts do not catch up")
        time.sleep(rng.uniform(0.0, 3.0))
        (blow,) = rng.choices(blows, weights)
        _strike(hosts, blow, rng, told)


def _caught_up(hosts: Hosts) -> bool:
    with suppress(Exception):
        hosts.release_broken_off()
    hosts.check()
    return hosts.open() < MOST_OPEN


def _strike(hosts: Hosts, blow: HostBlow, rng: random.Random, told: Callable[[str], None]) -> None:
    began = time.monotonic()
    hosts.check()
    blow.strike(hosts, rng)
    hosts.kills += 1
    took = time.monotonic() - began
    told(f"{hosts.kills:4d} {took:5.1f} s  {blow.name}; {len(hosts.acknowledged.digests)} instances acknowledged")
