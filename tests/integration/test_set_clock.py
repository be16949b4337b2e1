"""The real node under a clock that is set by a day, back or forwards, in mid-series and in mid-delivery."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.serving import send, series, wait
from tests.interop.node import CONTOURD, Node, write_configuration
from tests.peers import free_port, require, running, storescp

DAY_S = 86_400
SOURCE = Path(__file__).with_name("set_clock.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("clock") / "set_clock.so"
    command = [require("cc"), "-shared", "-fPIC", "-O1", "-o", str(built), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return built


@contextmanager
def node_with_clock(folder: Path, library: Path, model: Path, destination: int) -> Iterator[Node]:
    port = free_port()
    configuration = write_configuration(folder, port, model, {"pacs": ("PACS", destination)})
    offset = folder / "offset"
    offset.write_text("0")
    clock = ["env", f"LD_PRELOAD={library}", f"CLOCK_OFFSET={offset}"]
    command = [*clock, *CONTOURD, "serve", "--config", str(configuration)]
    with running(command, port, folder / "contourd.log") as server:
        yield Node(folder, port, server)


@pytest.mark.peers
@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_a_clock_that_is_set_by_a_day(tmp_path, bright_bundle, library, step_s):
    paths, destination = series(tmp_path, "p1"), free_port()
    with node_with_clock(tmp_path / "node", library, bright_bundle, destination) as node:
        offset = node.folder / "offset"
        assert set(send(node.port, paths[:12]).values()) == {0}
        offset.write_text(str(step_s))
        wait(lambda: f"the clock was set by {step_s:+d} s; what waits follows it" in node.log, node)
        assert set(send(node.port, paths[12:]).values()) == {0}
        node.wait_until(lambda s: any(d["attempts"] for job in s["jobs"] for d in job["deliveries"]))
        offset.write_text("0")
        wait(lambda: f"the clock was set by {-step_s:+d} s" in node.log, node)
        with storescp(tmp_path / "pacs", "PACS", destination) as pacs:
            status = node.wait_until(lambda s: s["counts"].get("DELIVERED", 0) == 1)
            assert len(pacs.datasets()) == 1
        (job,) = status["jobs"]
        assert (job["revision"], job["attempts"]) == (1, 1)  # it was not taken for whole, or its worker for dead
        assert "Traceback" not in node.log
