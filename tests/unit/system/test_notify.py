"""What systemd hears, by its own protocol: datagrams on a socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from contourd.system.systemd import ALIVE, ENDING, READY, ServiceNotifier


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_each_state_is_a_datagram(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@contourd-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if kind == "abstract" else address)
        systemd.settimeout(10)
        supervisor = ServiceNotifier.from_environment({"NOTIFY_SOCKET": address}, 1)
        for state in (READY, ALIVE, ENDING):
            supervisor.tell(state)
        assert [systemd.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "x" * 300, "@" + "x" * 300])
def test_nobody_listens(address: str) -> None:
    ServiceNotifier(address).tell(READY)


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "90000000"}, 90.0),
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "7"}, 90.0),
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_ours_or_none(environment: dict[str, str], watchdog_s: float) -> None:
    assert ServiceNotifier.from_environment(environment, 7).watchdog_s == watchdog_s
