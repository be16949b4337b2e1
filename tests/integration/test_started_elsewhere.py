"""What lies in the folder in which contourd is started is not run, by it or by any process that it starts."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from contourd.dicom.reading.isolation import PixelDecoder
from tests.interop.node import write_configuration
from tests.peers import LOOPBACK, free_port, running
from tests.phantom import write_series

WAIT_S = 120.0
# Of the standard library: what multiprocessing, numpy, torch, pydicom, uvicorn and the fork server import.
NAMES = ("array", "bisect", "decimal", "fractions", "queue", "random", "secrets", "selectors", "struct", "tempfile")


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A folder with modules that leave a file where they are imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f'open({str(tmp_path / "ran")!r}, "a").write("{name} ")\nraise ImportError\n'
        )
    return folder


def test_no_process_of_a_node_runs_what_lies_where_it_was_started(traps: Path, tmp_path: Path) -> None:
    port, page = free_port(), free_port()
    web = f"[web]\nenabled = true\nport = {page}\n"
    configuration = write_configuration(tmp_path / "node", port, "hn7", {"pacs": ("PACS", free_port())}, web)
    script = tmp_path / "bin" / "contourd"  # as it is installed; the folder that Python adds is the script's
    script.parent.mkdir()
    called = 'if __name__ == "__main__":\n    from contourd.cli import main\n    main()\n'
    script.write_text(f"import os\nos.chdir({str(traps)!r})\n{called}")
    command = [sys.executable, str(script)]
    command += ["serve", "--config", str(configuration)]
    with running(command, port, tmp_path / "log"):
        deadline, answer = time.monotonic() + WAIT_S, ""
        while answer != "ok\n":  # the receivers answer, the worker lives, and the page does
            assert time.monotonic() < deadline, (answer, (tmp_path / "log").read_text())
            with suppress(OSError):
                connection = http.client.HTTPConnection(LOOPBACK, page, timeout=10)
                connection.request("GET", "/readyz")
                answer = connection.getresponse().read().decode()
                connection.close()
            time.sleep(0.2)
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_python_m_contourd_does_not_either(traps: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "contourd", "status", "--help"]
    ran = subprocess.run(command, cwd=traps, env=environment, capture_output=True, check=False, timeout=WAIT_S)
    assert (ran.returncode, (tmp_path / "ran").exists()) == (0, False), ran.stderr


def test_the_decoder_does_not_either(traps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(write_series(tmp_path / "ct").iterdir())
    monkeypatch.chdir(traps)
    decoder = PixelDecoder()
    try:
        assert decoder.decode_apart(path).ndim == 2
    finally:
        decoder.close()
    assert not (tmp_path / "ran").exists()
