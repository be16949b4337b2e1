"""Fixtures of the SCP's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contourd.dicom.network.events import Witness
from contourd.dicom.network.scp import StorageSCP
from contourd.settings import NodeSettings
from contourd.spool.folder import Spool
from tests.integration.receiving import Receiver, Recorder, Start
from tests.peers import LOOPBACK, free_port
from tests.phantom import write_series


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[StorageSCP] = []

    def run(min_free_bytes: int = 0, witness: Witness = lambda *deed: None, **node: Any) -> Receiver:
        spool = Spool(tmp_path / "spool", min_free_bytes)
        sink = Recorder(spool.root)
        scp = StorageSCP(NodeSettings(host=LOOPBACK, port=free_port(), **node), spool, sink, witness)
        scp.start()
        running.append(scp)
        return Receiver(scp, sink, spool)

    yield run
    for scp in running:
        scp.stop()
    gc.collect()


@pytest.fixture
def receiver(start: Start) -> Receiver:
    return start()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return sorted(write_series(tmp_path / "ct").iterdir())
