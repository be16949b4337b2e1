"""The fixtures that tests of several folders share: one pytest plugin, registered by tests/conftest.py.

A test asks for them by name and imports none of them. What one folder alone needs stands in its conftest.py; a module
that defines a fixture of the same name hides the one here. What loads torch is imported where a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import Series
from contourd.operations.operations import Operations
from contourd.store.database import Database
from contourd.store.queue import Queue
from tests import bright, databases, intake_node, operating, s3
from tests.phantom import read_series, rewrite, structure_set, write_series
from tests.queueing import Clock


@pytest.fixture(scope="session")
def bright_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.bundles import make_bright_bundle

    return make_bright_bundle(tmp_path_factory.mktemp("bundles") / "bright")


@pytest.fixture(scope="session")
def fit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the bright bundle with names that an activation takes: the reference patient knows no such organs."""
    from tests.bundles import make_bright_bundle

    return make_bright_bundle(tmp_path_factory.mktemp("bundles") / "fit", ("Brain", "SpinalCanal"))


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small model on a coarse lattice: it takes a moment even with the largest volume."""
    from tests.bundles import make_small_bundle

    return make_small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.Server]:
    """Run moto's server on loopback; stopped by its own process."""
    server = s3.Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: s3.Server, tmp_path: Path) -> Iterator[s3.Bucket]:
    """Make a bucket of its own, whose store can be made to fail."""
    bucket = s3.Bucket(s3_server, tmp_path)
    yield bucket
    bucket.close()


@pytest.fixture
def make_series(tmp_path: Path) -> bright.SeriesMaker:
    """Return a function that writes the bright phantom as a patient's CT, changed as wished; it returns the folder."""

    def make(patient: str, change: Callable[[pydicom.Dataset], None] | None = None, keep: slice = slice(None)) -> Path:
        folder = write_ct_series(bright.phantom(), tmp_path / patient, SeriesIdentity(patient, f"{patient}^Test"))
        paths = sorted(folder.iterdir())
        for path in set(paths) - set(paths[keep]):
            path.unlink()
        for path in sorted(folder.iterdir()) if change else ():
            rewrite(path, change)
        return folder

    return make


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Write the asymmetric phantom as a CT series and read it through the gate."""
    return read_series(write_series(tmp_path_factory.mktemp("ct")))


@pytest.fixture
def dataset(series: Series) -> pydicom.Dataset:
    """Return the structure set of that series; a test may change it."""
    return structure_set(series)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``both_databases`` on SQLite and on PostgreSQL."""
    if metafunc.definition.get_closest_marker("both_databases") and not metafunc.definition.get_closest_marker(
        "sqlite_alone"
    ):
        metafunc.parametrize("engine", [databases.SQLITE, databases.POSTGRESQL], indirect=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[databases.Cluster]:
    """Run PostgreSQL, with a template of the queue's database; it keeps nothing safe from a power cut, and is fast."""
    cluster = databases.Cluster(*databases.UNSAFE_AND_FAST)
    try:
        cluster.start()
        cluster.make_template()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Keep the queues that a test opens by ``databases.open_queue`` in SQLite or PostgreSQL; returns which."""
    name = getattr(request, "param", databases.SQLITE)
    with databases.kept_in(request.getfixturevalue("cluster") if name == databases.POSTGRESQL else None):
        yield name


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Make the queue's database, empty: tmp_path/queue.sqlite, or what stands for it in PostgreSQL."""
    database = databases.open_queue(tmp_path)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def in_postgresql(cluster: databases.Cluster) -> Iterator[None]:
    """Keep the queues that a test opens in PostgreSQL alone."""
    with databases.kept_in(cluster):
        yield


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Return a function that opens the queue as another process would."""
    opened: list[Database] = []

    def another() -> Database:
        opened.append(databases.open_queue(tmp_path))
        return opened[-1]

    yield another
    for database in opened:
        database.close()


@pytest.fixture
def queue(database: Database, clock: Clock) -> Queue:
    return Queue(database, clock)


@pytest.fixture
def sending(database: Database, clock: Clock) -> Deliveries:
    """Return the deliveries, which are tried again by operating.POLICY."""
    return Deliveries(database, operating.POLICY, clock)


@pytest.fixture
def marie(database: Database, clock: Clock, tmp_path: Path) -> Operations:
    """Return what a person of that name may do; the spool is tmp_path."""
    return Operations(database, "marie", tmp_path, clock)


@pytest.fixture
def job(database: Database, clock: Clock) -> int:
    """Queue the job of a complete series for the destination pacs; its number."""
    return operating.add(database, clock)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[intake_node.Node]:
    """Make an intake with its spool, its clock and a sender."""
    node = intake_node.Node(tmp_path)
    yield node
    node.database.close()
