"""Parts of a running node are killed: its fork server, its tracker, its receivers, its threads from within.

After every kill the node's own word is compared with what a peer hears: ``/readyz`` with a true C-ECHO.
"""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.own_echo import ECHO_S
from contourd.node.self_test import EVERY_S, SILENT_S
from contourd.system.loopback import listens
from tests.chaos.server import Server, Timeout, wait_until
from tests.chaos.site import Site
from tests.peers import LOOPBACK

BROKEN_STATUS = 2  # of a node that ended because a part of it did
LOOK_S, TRUE_ECHO_S, WELL_S = 0.25, 5.0, 240.0
# A silence is told after SILENT_S, counted from a try that may come EVERY_S later and take ECHO_S to fail twice; the
# true echo of this side and a busy machine take their time, too. A node that is well again is so after the next try.
MOST_DEAF_AND_WELL_S = SILENT_S + EVERY_S + 2 * ECHO_S + TRUE_ECHO_S + 10.0
MOST_HEARING_AND_SILENT_S = 2 * EVERY_S + 2 * ECHO_S + 20.0


@dataclass(frozen=True)
class Blow:
    """One kill; ``ends``: the node cannot go on without that part, and must end by itself."""

    name: str
    strike: Callable[[Server], None]
    ends: bool = False


@dataclass(frozen=True)
class Heard:
    """What was seen after a blow.

    Attributes
    ----------
    well_s
        Until a true C-ECHO was answered and ``/readyz`` said so, by this node or by the one that was started after it.
    deaf_and_well_s
        The longest time in which ``/readyz`` said ok and no C-ECHO was answered.
    hearing_and_silent_s
        The longest time in which ``/readyz`` said that the port does not answer, and it did.
    """

    name: str
    well_s: float
    deaf_and_well_s: float
    hearing_and_silent_s: float

    @property
    def problems(self) -> list[str]:
        found = []
        if self.deaf_and_well_s > MOST_DEAF_AND_WELL_S:
            found.append(f"{self.name}: /readyz said ok for {self.deaf_and_well_s:.0f} s without an answer to a C-ECHO")
        if self.hearing_and_silent_s > MOST_HEARING_AND_SILENT_S:
            found.append(f"{self.name}: /readyz said for {self.hearing_and_silent_s:.0f} s that the port is silent")
        return found


def fork_servers(server: Server) -> list[psutil.Process]:
    return _children(server, "multiprocessing.forkserver")


def _children(server: Server, told: str) -> list[psutil.Process]:
    assert server.running is not None
    found = []
    for child in psutil.Process(server.running.pid).children():
        with suppress(psutil.NoSuchProcess):
            if told in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _fork_server(server: Server) -> None:
    _kill(fork_servers(server))


def _receivers(server: Server) -> None:
    _kill([receiver for one in fork_servers(server) for receiver in one.children()])


def _fork_server_and_receivers(server: Server) -> None:
    found = fork_servers(server)
    _kill([*found, *(receiver for one in found for receiver in one.children())])


def _and_the_next(server: Server) -> None:
    _tracker(server)
    before = {one.pid for one in fork_servers(server)}
    _fork_server_and_receivers(server)
    with suppress(Timeout):  # it may have been quicker than this look
        loading = wait_until(
            lambda: [one for one in fork_servers(server) if one.pid not in before], "another fork server", 20.0
        )
        _kill(loading)


def _tracker(server: Server) -> None:
    _kill(_children(server, "resource_tracker"))


def _page(server: Server) -> None:
    _kill([child for child in _children(server, "spawn_main") if _serves(child, server.page_port)])


def _serves(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.Error):
        return any(one.laddr and one.laddr.port == port for one in process.net_connections("tcp"))
    return False


def _hung_receiver(server: Server) -> None:
    for one in fork_servers(server):
        for receiver in one.children()[:1]:
            receiver.send_signal(signal.SIGSTOP)


def _thread(name: str) -> Blow:
    return Blow(f"the thread {name!r}, from within", lambda server: server.end_thread(name), ends=True)


SHORT = (
    Blow("the resource tracker, the fork server, its receivers, and the next fork server as it loads", _and_the_next),
    _thread("receiver 0"),
)
BLOWS = (
    *SHORT,
    Blow("the fork server", _fork_server),
    Blow("the receivers", _receivers),
    Blow("the fork server and its receivers", _fork_server_and_receivers),
    Blow("the resource tracker", _tracker),
    Blow("the page", _page),
    Blow("a receiver, stopped", _hung_receiver),
    *map(_thread, ("listener", "APScheduler", "ThreadPoolExecutor", "signals")),
)


def strike_parts(site: Site, blows: Sequence[Blow], told: Callable[[str], None] = lambda text: None) -> list[Heard]:
    """Strike a node that works, under load, at one part after another; start it again where it ends."""
    heard = []
    site.server.start()
    for blow in blows:
        _watch(site, blow.name)
        site.arrive()
        blow.strike(site.server)
        site.kills += 1
        if blow.ends:
            status = site.server.wait_dead()
            assert status == BROKEN_STATUS, f"{blow.name}: contourd ended with {status}:\n{site.server.tail()}"
            site.server.start()
        heard.append(_watch(site, blow.name))
        told(
            f"{heard[-1].well_s:5.1f} s until it was well, {heard[-1].deaf_and_well_s:4.1f} s deaf and well, "
            f"{heard[-1].hearing_and_silent_s:4.1f} s told silent and heard: {blow.name}"
        )
    return heard


def _watch(site: Site, name: str) -> Heard:
    """Ask both until they agree that the node is well."""
    began, well = time.monotonic(), 0
    deaf = silent = longest_deaf = longest_silent = 0.0
    before = began
    while well < 2:
        assert site.server.running is not None
        assert site.server.running.poll() is None, f"{name}: it ended:\n{site.server.tail()}"
        answered, ready = true_echo(site.server.port), readiness(site.server.page_port)
        now = time.monotonic()
        deaf = deaf + now - before if ready == "ok" and not answered else 0.0
        silent = silent + now - before if "port:" in ready and answered else 0.0
        longest_deaf, longest_silent = max(longest_deaf, deaf), max(longest_silent, silent)
        well, before = (well + 1 if answered and ready == "ok" else 0), now
        if now - began > WELL_S:
            raise Timeout(f"{name}: the node is not well: echo {answered}, {ready!r}:\n{site.server.tail()}")
        time.sleep(LOOK_S)
    return Heard(name, time.monotonic() - began, longest_deaf, longest_silent)


def true_echo(port: int) -> bool:
    """Say whether a peer's C-ECHO is answered."""
    if not listens(port):  # pynetdicom leaves the socket of a refused connection to the garbage collector
        return False
    ae = AE("ECHO")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = TRUE_ECHO_S
    ae.add_requested_context(Verification)
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
    if not association.is_established:
        return False
    try:
        return bool(association.send_c_echo().get("Status", None) == 0)
    except RuntimeError:  # the connection broke
        return False
    finally:
        if association.is_established:
            association.release()


def readiness(port: int) -> str:
    """Return what ``/readyz`` says, nothing where it does not."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().read().decode().strip()
    except OSError:
        return ""
    finally:
        connection.close()
