"""`contourd serve` whose spool somebody spoils: a pipe in the place of a file keeps nobody from stopping the node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bright import SeriesMaker
from tests.integration.quick_node import QuickNode
from tests.interop.node import Status, contourd, serve
from tests.peers import free_port, storescp, storescu

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]
# A node that only waits for a worker that waits for a pipe takes a minute.
MOST_STOPPING_S = 25.0


@dataclass(frozen=True)
class DeliveringNode(QuickNode):
    """A node whose only destination is not there, or not yet."""

    destination_port: int = 0


@contextmanager
def node_at_work(folder: Path, bundle: Path) -> Iterator[DeliveringNode]:
    port = free_port()
    with serve(folder, bundle, {"pacs": ("PACS", port)}) as node:
        yield DeliveringNode(node.folder, node.port, node.server, destination_port=port)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def stop(node: QuickNode) -> float:
    """Stop the node as systemd does; returns how long that took."""
    began = time.monotonic()
    node.server.terminate()
    assert node.server.wait(120) == 0, node.log[-4000:]
    return time.monotonic() - began


def spooled(node: QuickNode, kind: str) -> list[Path]:
    return sorted((node.folder / "spool" / kind).rglob("*.dcm"))


def held(status: Status) -> list[str]:
    return [one["reason"] for one in (*status["series"], *status["jobs"]) if one["state"] == "HELD"]


def test_an_image_of_a_series_that_is_received(tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker) -> None:
    with node_at_work(tmp_path / "node", bright_bundle) as node:
        assert storescu(node.port, make_series("spoilt")).status == 0
        replace_by_pipe(spooled(node, "incoming")[7])  # the series waits for quiet_s
        (reason,) = held(node.wait_until(lambda status: bool(held(status))))
        assert reason.startswith("1 of 24 received images are gone"), reason
        assert reason.endswith("; have the disk examined, and send the series again"), reason
        assert stop(node) < MOST_STOPPING_S


def test_an_image_of_a_job_that_waits(
    tmp_path: Path,
    bright_bundle: Path,
    fit_bundle: Path,
    make_series: SeriesMaker,
) -> None:
    """Once the worker has come upon it, and as it does."""
    with node_at_work(tmp_path / "node", bright_bundle) as node:
        assert storescu(node.port, make_series("spoilt")).status == 0
        node.wait_until(lambda status: [job["state"] for job in status["jobs"]] == ["DELIVERING"])
        replace_by_pipe(spooled(node, "incoming")[7])
        again = contourd("recontour", "1", "--model", fit_bundle, "--config", node.configuration)
        assert again.output.startswith("job 2 "), again.output
        (reason,) = held(node.wait_until(lambda status: bool(held(status))))
        assert "1 of 24 received images" in reason
        assert contourd("retry", "2", "--config", node.configuration).status == 0
        assert stop(node) < MOST_STOPPING_S


def test_the_structure_set_of_a_job_that_is_delivered(
    tmp_path: Path,
    bright_bundle: Path,
    make_series: SeriesMaker,
) -> None:
    with node_at_work(tmp_path / "node", bright_bundle) as node:
        assert storescu(node.port, make_series("spoilt")).status == 0
        node.wait_until(lambda status: [job["state"] for job in status["jobs"]] == ["DELIVERING"])
        (path,) = spooled(node, "outgoing")
        replace_by_pipe(path)
        with storescp(tmp_path / "pacs", "PACS", node.destination_port) as pacs:
            failed = node.wait_until(lambda status: [job["state"] for job in status["jobs"]] == ["FAILED"])
            assert pacs.datasets() == []
            assert stop(node) < MOST_STOPPING_S
    assert "cannot be read" in failed["jobs"][0]["deliveries"][0]["reason"]
