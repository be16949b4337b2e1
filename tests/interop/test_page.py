"""The page of a real `contourd serve`: a CT goes in by C-STORE and is looked at; the page's end ends nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress

import psutil
import pytest

from contourd.dicom.network.sender import send_series
from contourd.settings import Destination
from tests.interop.node import serve
from tests.paging import get
from tests.peers import LOOPBACK, free_port, storescp

LIMIT_S = 240.0


def wait_for(port: int, path: str, told: str) -> str:
    deadline, seen = time.monotonic() + LIMIT_S, ""
    while time.monotonic() < deadline:
        with suppress(OSError):
            seen = get(port, path)[1]
            if told in seen:
                return seen
        time.sleep(0.3)
    pytest.fail(f"{path} never told {told!r}; the last that was seen: {seen}")


def page_process(server: int) -> psutil.Process:
    """Find the process that listens on no DICOM port: the page's, among the daemon's children."""
    for child in psutil.Process(server).children():
        if any(c.status == psutil.CONN_LISTEN for c in child.net_connections("tcp")):
            return child
    pytest.fail("the page has no process")


@pytest.mark.peers
def test_a_series_is_looked_at_and_the_page_may_die(tmp_path, bright_bundle, make_series):
    port, token = free_port(), tmp_path / "token"
    token.write_text("0123456789abcdef0123")
    token.chmod(0o600)
    web = f'[web]\nenabled = true\nport = {port}\ntoken_file = "{token}"\n'
    with (
        storescp(tmp_path / "pacs", "PACS") as pacs,
        serve(tmp_path / "node", bright_bundle, {"pacs": ("PACS", pacs.port)}, more=web) as node,
    ):
        wait_for(port, "/readyz", "ok")
        send_series(
            sorted(make_series("P1").iterdir()),
            "TEST",
            Destination(name="node", ae_title="CONTOURD", host=LOOPBACK, port=node.port),
        )
        node.wait_until(lambda status: [job["state"] for job in status["jobs"]] == ["DELIVERED"])
        scene = json.loads(get(port, "/jobs/1/scene")[1])
        assert [organ["name"] for organ in scene["organs"]] == ["Brainstem"]
        assert "P1^Test" not in get(port, "/jobs/1")[1]
        metrics = get(port, "/metrics")[1]
        assert "contourd_instances_received_total 24.0" in metrics
        assert 'contourd_jobs{state="delivered"} 1.0' in metrics
        page = page_process(node.server.pid)
        os.kill(page.pid, signal.SIGKILL)
        send_series(
            sorted(make_series("P2").iterdir()),
            "TEST",
            Destination(name="node", ae_title="CONTOURD", host=LOOPBACK, port=node.port),
        )
        node.wait_until(lambda status: [job["state"] for job in status["jobs"]] == ["DELIVERED"] * 2)
        wait_for(port, "/readyz", "ok")
        page = page_process(node.server.pid)
        node.server.terminate()
        node.server.wait(LIMIT_S)
        assert not page.is_running()
        assert len(pacs.datasets()) == 2


def test_a_port_that_is_taken_does_not_stop_the_node(tmp_path, bright_bundle):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        web = f"[web]\nenabled = true\nport = {taken.getsockname()[1]}\n"
        with serve(tmp_path / "node", bright_bundle, {"pacs": ("PACS", free_port())}, more=web) as node:
            deadline = time.monotonic() + LIMIT_S
            while "the page's process ended" not in node.log:
                assert time.monotonic() < deadline, node.log
                time.sleep(0.2)
            assert node.server.poll() is None
            assert "address already in use" in node.log
