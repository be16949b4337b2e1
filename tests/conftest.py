"""What holds for the whole suite.

dciodvfy finds no error in any structure set that a test has left behind; and where tests run side by side, those that
start nodes and peers run one after another.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pydicom
import pytest

from tests.peers import dciodvfy_errors

pytest_plugins = ["tests.fixtures"]

RT_STRUCTURE_SET = b"1.2.840.10008.5.1.4.1.1.481.3"
META_BYTES = 400
WITH_PROCESSES = {"chaos", "fuzz", "integration", "interop", "soak"}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of whole nodes in one process, and those of any other file, where there are several processes."""
    from xdist.scheduler import LoadScopeScheduling

    class NodesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = PurePosixPath(nodeid.split("::")[0])
            return "nodes" if WITH_PROCESSES.intersection(path.parts) else str(path)

    return NodesTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what commands keep for their user, such as exported networks, away from the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def structure_sets(folder: Path) -> Iterator[Path]:
    """Find contourd's own structure sets by their file meta information; what a test made by hand is its own affair."""
    seen: set[str] = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            head = file.read(META_BYTES)
        if head[128:132] != b"DICM" or RT_STRUCTURE_SET not in head:
            continue
        dataset = pydicom.dcmread(path, specific_tags=["Manufacturer", "SOPInstanceUID"])
        uid = dataset.get("SOPInstanceUID")
        if dataset.get("Manufacturer") == "contourd" and uid not in seen:
            seen.add(uid)
            yield path


@pytest.fixture(scope="session", autouse=True)
def every_structure_set_is_valid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Examine them at the end; where dciodvfy is not installed, the tests marked ``peers`` say so."""
    yield
    if shutil.which("dciodvfy") is None:
        return
    found = {path: dciodvfy_errors(path) for path in structure_sets(tmp_path_factory.getbasetemp())}
    assert {path: errors for path, errors in found.items() if errors} == {}
