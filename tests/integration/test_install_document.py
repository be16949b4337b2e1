"""docs/install.md installs contourd: its own commands, in a scratch root, and then the unit's own ExecStart."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from contourd import __version__
from tests.peers import LOOPBACK, free_port

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "docs" / "install.md"
PLACES = ("/opt/contourd", "/etc/contourd", "/etc/systemd/system", "/var/lib/contourd", "/usr/local/bin")
START_S = 120.0
LIBRARIES = Path(typer.__file__).parents[1]
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Nobody becomes another user in a test. The libraries are those that the test runs with.
STAND_INS = {
    "sudo": '#!/bin/sh\n[ "$1" = -u ] && shift 2\nexec "$@"\n',
    "useradd": "#!/bin/sh\n",
    "chown": "#!/bin/sh\n",
    "systemctl": "#!/bin/sh\n",
    "python3": (
        f'#!/bin/sh\n"{sys.executable}" "$@" || exit 1\n'
        f'echo "{LIBRARIES}" >"$3/lib/{VERSION}/site-packages/libraries.pth"\n'
    ),
}


def blocks(section: str) -> str:
    """Return the commands of one section of the document."""
    text = INSTALL.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a root with the folders of every Linux, and a wheel as `make wheel` leaves it."""
    root = tmp_path_factory.mktemp("machine")
    for folder in ("usr/local/bin", "etc/systemd/system", "var/lib", "opt", "stand-ins", "dist"):
        (root / folder).mkdir(parents=True)
    for name, script in STAND_INS.items():
        (root / "stand-ins" / name).write_text(script)
        (root / "stand-ins" / name).chmod(0o755)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", root / "dist", ROOT], check=True, timeout=200)
    shutil.copy(ROOT / "constraints.txt", root / "dist")
    return root


def typed(root: Path, commands: str) -> None:
    """Type commands of the document on the machine below ``root``."""
    for place in PLACES:
        commands = re.sub(rf"(?<=\s){place}", f"{root}{place}", commands)
    commands = commands.replace("-o contourd -g contourd ", "")
    search = f"{root}/stand-ins:{root}/usr/local/bin:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=root / "dist",
        env={**os.environ, "PATH": search, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def service(root: Path) -> Mapping[str, str]:
    """Read the [Service] section of the unit that was installed."""
    text = (root / "etc/systemd/system/contourd.service").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z]+)=(.*)$", text.split("[Service]")[1].split("[Install]")[0], re.MULTILINE))


def test_the_unit_starts_what_the_document_installed(root: Path, tmp_path: Path) -> None:
    typed(root, blocks("1. Install"))
    typed(root, blocks("2. Write the configuration").replace("contourd init", "contourd init --yes"))
    typed(root, blocks("5. Start it as a service").split("systemctl status contourd")[0])
    configuration = root / "etc/contourd/contourd.toml"
    ports, text = (free_port(), free_port()), configuration.read_text(encoding="utf-8")
    for old, new in {"port = 11112": f"port = {ports[0]}", "port = 11180": f"port = {ports[1]}"}.items():
        assert old in text
        text = text.replace(old, new)
    text = text.replace('"/var/lib/contourd"', f'"{root}/var/lib/contourd"').replace(
        "min_free_gb = 2.0", "min_free_gb = 0"
    )
    configuration.write_text(text, encoding="utf-8")

    command = service(root)["ExecStart"].replace("/opt/", f"{root}/opt/").replace("/etc/", f"{root}/etc/").split()
    assert subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout.split()[-1] == (
        __version__
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START_S)
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            socket.create_connection((LOOPBACK, ports[0]), 10).close()
            server.send_signal(signal.SIGTERM)
            assert server.wait(START_S) == 0
        finally:
            server.kill()
            server.wait()
