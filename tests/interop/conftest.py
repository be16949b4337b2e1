"""What the interoperability tests share: a node with a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.node import serve
from tests.interop.site import Site
from tests.peers import free_port, storescp


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bright_bundle: Path) -> Iterator[Site]:
    """Run one contourd and one storescp for all tests of a module; each test sends patients of its own."""
    with storescp(tmp_path_factory.mktemp("pacs"), "PACS") as destination:
        names = {"pacs": (destination.ae_title, destination.port)}
        with serve(tmp_path_factory.mktemp("node"), bright_bundle, names, free_port()) as node:
            yield Site(node, destination)
