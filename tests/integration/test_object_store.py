"""A node with an object store behind its spool: all the way through, while it is away, and on another host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.destination import Receiver, receiver
from tests.integration.serving import OUT_OF_RESOURCES, send, series, wait
from tests.interop.node import CONTOURD, Node, contourd, write_configuration
from tests.peers import free_port, running
from tests.s3 import Bucket

TIMEOUT_S = 8.0


def configuration(folder: Path, bundle: Path, peer: Receiver, bucket: Bucket, durable: str, port: int) -> Path:
    path = write_configuration(
        folder, port, bundle, {"receiver": ("RECEIVER", peer.port)}, bucket.toml(TIMEOUT_S), "receivers = 1"
    )
    path.write_text(path.read_text().replace("[spool]\n", f'[spool]\ndurable = "{durable}"\n'))
    return path


@contextmanager
def serve(folder: Path, bundle: Path, peer: Receiver, bucket: Bucket, durable: str) -> Iterator[Node]:
    port = free_port()
    path = configuration(folder, bundle, peer, bucket, durable, port)
    with running([*CONTOURD, "serve", "--config", str(path)], port, folder / "contourd.log") as server:
        yield Node(folder, port, server)


@pytest.mark.parametrize("durable", ["local", "store"])
def test_a_series_through_a_store_that_was_away_and_again_on_another_host(
    tmp_path: Path, bright_bundle: Path, bucket: Bucket, durable: str
) -> None:
    images = series(tmp_path, "P1")
    with receiver() as peer, serve(tmp_path / "ct1", bright_bundle, peer, bucket, durable) as node:
        bucket.fault = lambda method, path: "refuse"
        statuses = set(send(node.port, images[:3]).values())
        assert statuses == ({0} if durable == "local" else {OUT_OF_RESOURCES})
        bucket.fault = lambda method, path: ""
        assert set(send(node.port, images).values()) == {0}
        wait(lambda: len(peer.received) == 1, node)
        wait(lambda: not [name for name in bucket.objects() if name.startswith("waiting/")], node)
        # The images in one object, or in one more where three of them came while the store was away.
        packed = [name for name in bucket.objects() if name.startswith("series/")]
        assert 1 <= len(packed) <= 2
        other = configuration(tmp_path / "ct2", bright_bundle, peer, bucket, durable, free_port())
        queue = tmp_path / "ct1" / "spool" / "contourd.sqlite"
        other.write_text(other.read_text() + f'[database]\nurl = "sqlite:///{queue}"\n')
        ran = contourd("replay", "1", "--config", other)
        assert ran.status == 0, ran.output
        assert len(list((tmp_path / "ct2" / "spool" / "incoming").glob("*/*.dcm"))) == len(images)
        checked = contourd("check", "--config", other)
        assert "0.1 MB put in" in checked.output
    assert len(peer.received) == 1
