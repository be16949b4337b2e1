"""A node that no longer hears says so, leaves the watchdog alone, and ends: another one can be started."""

from __future__ import annotations

import ctypes
import functools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.errors import NodeError
from contourd.node import daemon as daemon_module
from contourd.node import self_test
from contourd.node.daemon import Daemon
from contourd.node.receivers.dispatcher import ReceiverPool
from contourd.observe.pulse import SelfTestFault
from contourd.settings import Destination, load_settings
from contourd.store.audit import AuditTrail
from contourd.system.systemd import ServiceNotifier
from tests.integration import breaking
from tests.interop.node import write_configuration
from tests.peers import LOOPBACK, free_port

WAIT_S = 60.0


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Make a node; what it does with signals and with threads is put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = threading.excepthook

    def make(port: int = 0, **more: Any) -> Daemon:
        configuration = write_configuration(tmp_path, port or free_port(), "hn7", {"pacs": ("PACS", free_port())})
        return Daemon(load_settings(configuration), **more)

    yield make
    threading.excepthook = hook
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_node_whose_receivers_cannot_start_says_so_and_ends(begin, tmp_path, monkeypatch) -> None:
    """As where what they import is missing: the port accepts, and nobody answers."""
    monkeypatch.setattr(self_test, "SILENT_S", 0.5)
    monkeypatch.setattr(self_test, "DEAF_S", 3.0)
    monkeypatch.setattr(daemon_module, "EVERY_S", 0.2)
    monkeypatch.setattr("contourd.dicom.network.own_echo.ECHO_S", 0.5)
    dying = functools.partial(ReceiverPool, main=breaking.dying_at_start)
    monkeypatch.setattr(daemon_module, "ReceiverPool", dying)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(WAIT_S)
        node = begin(notifier=ServiceNotifier(str(tmp_path / "notify"), 0.3))
        with pytest.raises(NodeError, match="no C-ECHO to its own port was answered"):
            node.run()
        heard = []
        while (state := systemd.recv(100)) != b"STOPPING=1":
            heard.append(state)
    assert node.faults & SelfTestFault.PORT
    assert heard[0] == b"READY=1"
    assert len(heard) - 1 < 15  # every 0.1 s for 0.5 s, and not for the two and a half that follow


def test_a_thread_that_is_killed_from_within_ends_the_node_and_is_audited(begin, monkeypatch) -> None:
    monkeypatch.setattr("contourd.node.receivers.dispatcher.STOP_S", 1.0)
    noted: list[tuple[str, ...]] = []
    monkeypatch.setattr(AuditTrail, "note", lambda trail, *what: noted.append(what))
    port, before = free_port(), threading.enumerate()  # a node of another test may be ending
    node, own = begin(port), Destination(name="own", ae_title="CONTOURD", host=LOOPBACK, port=port)

    def kill_keeper() -> None:
        while not node.serving or StorageSCU("TEST").echo(own).kind is not OutcomeKind.ACCEPTED:
            time.sleep(0.05)
        (keeper,) = [one for one in threading.enumerate() if one.name == "receiver 0" and one not in before]
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(keeper.ident or 0), ctypes.py_object(SystemExit))

    killing = threading.Thread(target=kill_keeper, daemon=True)
    killing.start()
    with pytest.raises(NodeError, match="a thread of contourd ended by itself"):
        node.run()
    killing.join()
    assert ("thread ended", "contourd", "", "receiver 0: SystemExit") in noted
