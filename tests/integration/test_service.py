"""`contourd serve` as a service: what it tells systemd while it starts, lives and stops; and the unit itself."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import LOOPBACK, free_port

UNIT = Path(__file__).parents[2] / "etc" / "contourd.service"
START_S = 120.0


def next_of(systemd: socket.socket, wanted: bytes) -> list[bytes]:
    """Return what comes before a state."""
    heard: list[bytes] = []
    while (state := systemd.recv(100)) != wanted:
        heard.append(state)
    return heard


def test_a_service_says_when_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "contourd.toml").write_text(
        f'[node]\nhost = "{LOOPBACK}"\nport = {port}\n[spool]\nroot = "{tmp_path}/spool"\nmin_free_gb = 0.001\n'
        f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "{LOOPBACK}"\nport = 1\n'
        '[[route]]\nmodel = "hn7"\ndestinations = ["pacs"]\n'
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START_S)
        server = subprocess.Popen(
            [sys.executable, "-m", "contourd", "serve", "--config", str(tmp_path / "contourd.toml")],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert next_of(systemd, b"READY=1") == []
            socket.create_connection((LOOPBACK, port), 10).close()  # it listens by then
            assert next_of(systemd, b"WATCHDOG=1") == []
            assert next_of(systemd, b"WATCHDOG=1") == []
            server.send_signal(signal.SIGTERM)
            assert set(next_of(systemd, b"STOPPING=1")) <= {b"WATCHDOG=1"}
            assert server.wait(START_S) == 0
        finally:
            server.kill()
            server.wait()


def test_the_unit_is_what_systemd_understands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "contourd.service"
    unit.write_text(UNIT.read_text().replace("/opt/contourd/current/bin/contourd", "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_unit_takes_every_privilege_away() -> None:
    lines = UNIT.read_text().splitlines()
    for line in (
        "Type=notify",
        "User=contourd",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallFilter=@system-service",
    ):
        assert line in lines
