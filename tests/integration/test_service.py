"""`contourd serve` and `worker` as services: what they tell systemd as they start, live and stop; and their units."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from contourd.store.database import Database
from tests.peers import LOOPBACK, free_port

ETC = Path(__file__).parents[2] / "etc"
UNITS = (ETC / "contourd.service", ETC / "contourd-worker.service")
START_S = 120.0


def next_of(systemd: socket.socket, wanted: bytes) -> list[bytes]:
    """Return what comes before a state."""
    heard: list[bytes] = []
    while (state := systemd.recv(100)) != wanted:
        heard.append(state)
    return heard


@pytest.mark.parametrize("what", ["serve", "worker"])
def test_a_service_says_when_it_is_ready_alive_and_stopping(tmp_path: Path, what: str) -> None:
    port = free_port()
    (tmp_path / "contourd.toml").write_text(
        f'[node]\nhost = "{LOOPBACK}"\nport = {port}\n[spool]\nroot = "{tmp_path}/spool"\nmin_free_gb = 0.001\n'
        f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "{LOOPBACK}"\nport = 1\n'
        '[[route]]\nmodel = "hn7"\ndestinations = ["pacs"]\n'
    )
    if what == "worker":  # the node has made the tables
        (tmp_path / "spool").mkdir(0o700)
        database = Database(f"sqlite:///{tmp_path}/spool/contourd.sqlite")
        database.upgrade()
        database.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START_S)
        server = subprocess.Popen(
            [sys.executable, "-m", "contourd", what, "--config", str(tmp_path / "contourd.toml")],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert next_of(systemd, b"READY=1") == []
            if what == "serve":
                socket.create_connection((LOOPBACK, port), 10).close()  # it listens by then
            else:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((LOOPBACK, port), 10)
            assert next_of(systemd, b"WATCHDOG=1") == []
            assert next_of(systemd, b"WATCHDOG=1") == []
            server.send_signal(signal.SIGTERM)
            assert set(next_of(systemd, b"STOPPING=1")) <= {b"WATCHDOG=1"}
            assert server.wait(START_S) == 0
        finally:
            server.kill()
            server.wait()


@pytest.mark.parametrize("source", UNITS, ids=lambda path: path.stem)
def test_the_unit_is_what_systemd_understands(tmp_path: Path, source: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / source.name
    unit.write_text(source.read_text().replace("/opt/contourd/current/bin/contourd", "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_unit_takes_every_privilege_away(unit: Path) -> None:
    lines = unit.read_text().splitlines()
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
