"""The short form of the soak: the processes that receive do not grow with what it receives or with who connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.peers import Destination
from tests.interop.node import serve
from tests.soak.load import Footprint, Limits, Load, soak

# 600 instances of 9 kB each: 5.6 MB if they were kept. 100 echoes and as many connections: 200 threads if they stayed.
LOAD = Load(warm_up=2, associations=6, instances=100, echoes=100)
LIMITS = Limits(rss_mb=5.0)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.timeout(600)
def test_the_node_does_not_grow(tmp_path: Path, bright_bundle: Path) -> None:
    destination = Destination("pacs")
    try:
        with serve(tmp_path / "node", bright_bundle, {"pacs": (destination.ae_title, destination.port)}) as node:
            soaked = soak(node, tmp_path / "ct", LOAD)
    finally:
        destination.stop()
    assert soaked.delivered == len(destination.copies) == 8
    assert LIMITS.exceeded(soaked.idle.grown(soaked.warm)) == [], soaked.text()


def test_the_limits_see_each_kind_of_growth() -> None:
    before = Footprint(100.0, 20, 8)
    limits = Limits(rss_mb=50.0, descriptors=20, threads=4)
    assert limits.exceeded(Footprint(150.0, 40, 12).grown(before)) == []
    assert limits.exceeded(Footprint(90.0, 10, 5).grown(before)) == []
    assert limits.exceeded(Footprint(151.0, 20, 8).grown(before)) == ["51.0 more MB, 50.0 are allowed"]
    assert limits.exceeded(Footprint(100.0, 41, 8).grown(before)) == ["21.0 more descriptors, 20.0 are allowed"]
    assert limits.exceeded(Footprint(100.0, 20, 13).grown(before)) == ["5.0 more threads, 4.0 are allowed"]
