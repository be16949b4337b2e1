"""Real DICOM peers on loopback: DCMTK, Orthanc, dicom3tools, plastimatch; started and stopped by their own pid.

A test that needs a peer that is not installed is skipped, and fails where CONTOURD_REQUIRE_PEERS=1 (CI).
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pydicom
import pytest
from numpy.typing import NDArray

from contourd.system.loopback import LOOPBACK, free_port, listens, stop

START_S, STOP_S, RUN_S = 120.0, 60.0, 180.0


def require(tool: str) -> str:
    """Return the path of a peer's program; skip the test where it is absent, or fail if peers are required."""
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        reason = f"{tool} is not installed"
        if os.environ.get("CONTOURD_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def rt_utils() -> ModuleType:
    """Import rt-utils, or skip the test; fail if peers are required."""
    try:
        return importlib.import_module("rt_utils")
    except ImportError as error:  # its OpenCV needs libGL
        if os.environ.get("CONTOURD_REQUIRE_PEERS") == "1":
            raise
        pytest.skip(f"rt_utils does not load: {error}")


def listening_socket(port: int) -> socket.socket:
    """Return the socket by which this process listens on a TCP port, as another object; to be closed."""
    (found,) = [
        one.fd
        for one in psutil.Process().net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    ]
    return socket.socket(fileno=os.dup(found))


def children_running(word: str) -> set[int]:
    """Return the processes that this one started, that have not ended, and whose command line has a word."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if word in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def environment() -> dict[str, str]:
    """Debian's DCMTK and Orthanc stall 40 ms an instance under Nagle's algorithm unless told otherwise."""
    return {**os.environ, "TCP_NODELAY": "1"}


def wait_for_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server accepts connections; fail with its log if it dies first."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if listens(port):
            return
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.05)
            pytest.fail(f"{server.args!r} ended with {server.returncode}:\n{log.read_text(errors='replace')}")
    pytest.fail(f"{server.args!r} does not listen on {port}:\n{log.read_text(errors='replace')}")


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; then SIGTERM to its own pid, and SIGKILL if that does not help."""
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment()
        )
    try:
        wait_for_port(port, server, log)
        yield server
    finally:
        stop(server, STOP_S)


@dataclass(frozen=True)
class StoreSCP:
    """DCMTK's storescp; each C-STORE is a file of its own in ``folder``."""

    ae_title: str
    port: int
    folder: Path

    def datasets(self) -> list[pydicom.Dataset]:
        return [pydicom.dcmread(path) for path in sorted(self.folder.iterdir())]


@contextmanager
def storescp(folder: Path, ae_title: str = "STORESCP", port: int | None = None) -> Iterator[StoreSCP]:
    program = require("storescp")
    received = folder / "received"
    received.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [program, "--fork", "--unique-filenames", "-aet", ae_title, "-od", str(received), str(port)]
    with running(command, port, folder / "storescp.log"):
        yield StoreSCP(ae_title, port, received)


@dataclass(frozen=True)
class Orthanc:
    """Orthanc with an empty store; its REST interface says what it holds."""

    ae_title: str
    port: int
    rest_port: int

    def get(self, path: str) -> bytes:
        return self._open(urllib.request.Request(f"http://{LOOPBACK}:{self.rest_port}{path}"))

    def post(self, path: str, body: object) -> bytes:
        return self._open(
            urllib.request.Request(
                f"http://{LOOPBACK}:{self.rest_port}{path}", data=json.dumps(body).encode(), method="POST"
            )
        )

    def instances(self, modality: str) -> list[pydicom.Dataset]:
        """Download every instance of a modality."""
        found = json.loads(
            self.post("/tools/find", {"Level": "Instance", "Query": {"Modality": modality}, "Expand": False})
        )
        return [pydicom.dcmread(BytesIO(self.get(f"/instances/{i}/file"))) for i in found]

    def studies(self) -> list[str]:
        return [
            json.loads(self.get(f"/studies/{i}"))["MainDicomTags"]["StudyInstanceUID"] for i in self._ids("studies")
        ]

    def send(self, modality: str) -> None:
        """Send every study by C-STORE to a peer of its configuration, and wait until that is done."""
        self.post(f"/modalities/{modality}/store", {"Resources": self._ids("studies"), "Synchronous": True})

    def _ids(self, level: str) -> list[str]:
        return [str(i) for i in json.loads(self.get(f"/{level}"))]

    def _open(self, request: urllib.request.Request) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=RUN_S) as answer:
            return bytes(answer.read())


def dicomweb_plugin() -> str:
    """Return Orthanc's plug-in for DICOMweb; skip the test where it is absent, or fail if peers are required."""
    path = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if not path.exists():
        reason = f"{path} is not installed"
        if os.environ.get("CONTOURD_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(path)


@contextmanager
def orthanc(
    folder: Path,
    peers: Mapping[str, tuple[str, int]] | None = None,
    port: int | None = None,
    web: Mapping[str, object] | None = None,
) -> Iterator[Orthanc]:
    """Run Orthanc; ``peers`` are the DICOM nodes it knows: name -> (AE title, port) on loopback.

    With ``web``, settings of its own that may be empty, it speaks DICOMweb.
    """
    program = require("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    node = Orthanc("ORTHANC", port or free_port(), free_port())
    settings = {
        "Name": "interop",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "DicomAet": node.ae_title,
        "DicomPort": node.port,
        "DicomCheckCalledAet": True,
        "HttpPort": node.rest_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {name: [ae_title, LOOPBACK, at] for name, (ae_title, at) in (peers or {}).items()},
        "Plugins": [] if web is None else [dicomweb_plugin()],
        "SaveJobs": False,
        **({} if web is None else {"DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, **web}),
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    log = folder / "orthanc.log"
    with running([program, str(configuration)], node.port, log) as server:
        wait_for_port(node.rest_port, server, log)
        yield node


@dataclass(frozen=True)
class Ran:
    """What a peer's program answered."""

    status: int
    output: str


def run(program: str, *arguments: str | Path, timeout_s: float = RUN_S) -> Ran:
    """Run a peer's program to its end; its exit status and everything it printed."""
    done = subprocess.run(
        [require(program), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        timeout=timeout_s,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(errors="replace"))


def storescu(
    port: int, *paths: Path, called: str = "CONTOURD", calling: str = "STORESCU", options: Sequence[str] = ()
) -> Ran:
    """Send files, or whole folders, by DCMTK's storescu in one association that proposes what the files need."""
    arguments = ("-v", "-R", "+sd", "+r", *options, "-aet", calling, "-aec", called, LOOPBACK, str(port))
    return run("storescu", *arguments, *paths)


def echoscu(port: int, called: str = "CONTOURD", calling: str = "ECHOSCU") -> Ran:
    return run("echoscu", "-v", "-aet", calling, "-aec", called, LOOPBACK, str(port))


def dciodvfy_errors(path: Path) -> list[str]:
    """Validate a file with David Clunie's dciodvfy and return its lines of errors."""
    return [line for line in run("dciodvfy", path).output.splitlines() if line.startswith("Error")]


def plastimatch_masks(rtstruct: Path, ct_folder: Path, work: Path) -> dict[str, NDArray[np.bool_]]:
    """Rasterise a structure set on its CT by plastimatch: ROI name -> bool (z, y, x), z ascending."""
    masks = work / "plastimatch"
    ran = run(
        *("plastimatch", "convert", "--input", rtstruct, "--referenced-ct", ct_folder),
        *("--output-prefix", masks, "--prefix-format", "mha"),
    )
    assert ran.status == 0, ran.output
    return {path.stem: read_mha(path) > 0 for path in sorted(masks.glob("*.mha"))}


def read_mha(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit MetaImage with its voxels in the same file: (z, y, x)."""
    head, marker, voxels = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    assert marker, f"{path} keeps its voxels elsewhere"
    fields = dict(line.split(" = ", 1) for line in head.decode().splitlines())
    assert fields["ElementType"] == "MET_UCHAR"
    raw = zlib.decompress(voxels) if fields.get("CompressedData") == "True" else voxels
    x, y, z = (int(n) for n in fields["DimSize"].split())
    return np.frombuffer(raw, np.uint8).reshape(z, y, x)
