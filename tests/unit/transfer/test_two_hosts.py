"""Two hosts, each with a spool of its own, one database and one object store: what is received here is read there."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import dataset_sha256
from contourd.errors import SpoolError, StoreUnavailable
from contourd.intake.intake import Intake
from contourd.intake.spool_recovery import record_unrecorded
from contourd.node.retention import Retention
from contourd.settings import RetentionSettings, Route, SeriesSettings
from contourd.spool.folder import Spool
from contourd.spool.grouping import GroupedPuts
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState, SeriesState
from contourd.store.tables import InstanceRow, JobRow, SeriesRow, StoredFileRow
from contourd.transfer.copies import LocalCopies
from contourd.transfer.removal import StoreRemoval
from contourd.transfer.uploading import Uploader
from tests.phantom import write_series
from tests.s3 import Bucket

QUIET_S, GAPPED_S = 10.0, 60.0
ROUTE = Route(model="bright", destinations=("pacs",))


class Host:
    """One host: a spool of its own, and the database and the bucket of all."""

    def __init__(
        self, root: Path, name: str, bucket: Bucket, database: Database, clock, durable: str = "local"
    ) -> None:
        store = bucket.open()
        secured = GroupedPuts(store, name) if durable == "store" else None
        self.spool = Spool(root / name, host=name, store=store, secured=secured)
        self.database = database
        self.clock = clock
        self.copies = LocalCopies(database, self.spool, clock)
        series = SeriesSettings(quiet_s=QUIET_S, gapped_s=GAPPED_S)
        self.intake = Intake(database, self.spool.root, series, [ROUTE], clock, clock.elapsed, copies=self.copies)
        self.uploader = Uploader(database, self.spool, QUIET_S, clock)
        self.queue = Queue(database, clock, host=self.spool.host_of_images)

    def receive(self, files: list[Path], association: int = 1) -> list[str]:
        """Take images as the SCP does; returns their paths."""
        from contourd.dicom.reading.instance import read_instance

        paths = []
        self.intake.association_opened(association, "CT1", "127.0.0.1")
        for file in files:
            instance, content = read_instance(file), file.read_bytes()
            path = self.spool.store_instance([content])
            stored = self.spool.secure(path, [content])
            received = ReceivedInstance(
                association,
                "CT1",
                instance.series_instance_uid,
                instance.sop_instance_uid,
                path,
                dataset_sha256(content),
                self.spool.pseudonym(instance.patient_id),
                stored,
            )
            self.intake.instance_stored(received)
            paths.append(path)
        self.intake.association_closed(association, aborted=False)
        return paths

    def close(self) -> None:
        self.clock.advance(QUIET_S + 1)
        self.uploader.run()
        self.intake.close_quiet()

    def has(self, paths: list[str]) -> int:
        return sum((self.spool.root / path).exists() for path in paths)


class Site:
    """Two hosts that share a database and a bucket."""

    def __init__(self, root: Path, bucket: Bucket, database: Database, clock, durable: str = "local") -> None:
        self.bucket, self.database, self.clock = bucket, database, clock
        self.a, self.b = (Host(root, name, bucket, database, clock, durable) for name in ("ct1", "ct2"))
        self.files = sorted(write_series(root / "ct").iterdir())

    def state(self) -> str:
        with self.database.reading() as session:
            return session.scalars(select(SeriesRow.state)).one()

    def reason(self) -> str:
        with self.database.reading() as session:
            return session.scalars(select(SeriesRow.reason_code)).one()

    def stored(self) -> dict[str, str]:
        """Path -> object, of what was not removed."""
        with self.database.reading() as session:
            rows = session.execute(
                select(StoredFileRow.path, StoredFileRow.object).where(StoredFileRow.removed_at.is_(None))
            )
            return {row.path: row.object for row in rows}


@pytest.fixture(params=["local", "store"])
def site(request, tmp_path, bucket, database, clock) -> Iterator[Site]:
    return Site(tmp_path, bucket, database, clock, request.param)


@pytest.fixture
def local(tmp_path, bucket, database, clock) -> Site:
    return Site(tmp_path, bucket, database, clock)


def test_a_series_is_one_object_for_each_host_and_every_host_has_its_images(site: Site) -> None:
    half = len(site.files) // 2
    paths = [*site.a.receive(site.files[:half]), *site.b.receive(site.files[half:], 2)]
    for host in (site.a, site.b):
        host.close()
    assert site.state() == SeriesState.COMPLETE
    assert len(site.bucket.objects()) == 2
    assert set(site.stored()) == set(paths)
    for host in (site.a, site.b):
        host.copies.bring(paths)
        assert host.has(paths) == len(site.files)
    sent = {hashlib.sha256(file.read_bytes()).hexdigest() for file in site.files}
    assert {hashlib.sha256((site.b.spool.root / path).read_bytes()).hexdigest() for path in paths} == sent


def test_one_key_and_so_one_pseudonym(local: Site) -> None:
    assert local.a.spool.pseudonym("ID-1") == local.b.spool.pseudonym("ID-1")
    local.b.spool.agree_on_key()
    (local.b.spool.root / "site.key").write_bytes(b"x" * 32)
    with pytest.raises(SpoolError, match="holds another site's key"):
        Spool(local.b.spool.root, host="ct2", store=local.bucket.open()).agree_on_key()


def test_a_job_is_claimed_elsewhere_only_when_its_images_are_in_the_store(local: Site) -> None:
    local.a.receive(local.files)
    local.bucket.fault = lambda method, path: "refuse"
    local.a.close()  # the store is away: what this host has is enough for it
    assert local.state() == SeriesState.COMPLETE
    assert local.b.queue.fetch_job("worker of b", 60) is None
    local.bucket.fault = lambda method, path: ""
    local.a.uploader.run()
    job = local.b.queue.fetch_job("worker of b", 60)
    assert job is not None
    local.b.copies.bring(job.paths)
    assert local.b.has(list(job.paths)) == len(local.files)


def test_its_own_job_is_claimed_while_the_store_is_away(local: Site) -> None:
    local.a.receive(local.files)
    local.bucket.fault = lambda method, path: "refuse"
    local.a.close()
    assert local.a.queue.fetch_job("worker of a", 60) is not None


def test_what_a_host_that_is_away_has_alone_holds_the_series_until_it_is_stored(local: Site) -> None:
    half = len(local.files) // 2
    local.a.receive(local.files[:half])
    local.b.receive(local.files[half:], 2)
    local.clock.advance(QUIET_S + 1)
    local.b.intake.close_quiet()
    assert local.state() == SeriesState.RECEIVING
    local.clock.advance(GAPPED_S)
    local.b.intake.close_quiet()
    assert (local.state(), local.reason()) == (SeriesState.HELD, "images_elsewhere")
    local.a.uploader.run()
    local.b.intake.close_quiet()
    assert local.state() == SeriesState.RECEIVING
    local.b.close()
    assert local.state() == SeriesState.COMPLETE


@pytest.mark.parametrize("damage", ["gone", "changed", "empty"])
def test_what_is_damaged_here_is_fetched_again(local: Site, damage: str) -> None:
    paths = local.a.receive(local.files)
    local.a.close()
    victim = local.a.spool.root / paths[3]
    whole = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(b"" if damage == "empty" else whole[:-4] + b"rot!")
    assert local.a.copies.repair(
        {paths[3]: dataset_sha256(whole), paths[4]: dataset_sha256((local.a.spool.root / paths[4]).read_bytes())}
    )
    assert victim.read_bytes() == whole
    assert not local.a.copies.repair({paths[3]: dataset_sha256(whole)})


def test_an_answer_that_breaks_off_is_asked_for_again_and_nothing_half_is_kept(local: Site) -> None:
    paths = local.a.receive(local.files)
    local.a.close()
    broken = iter(["half"])
    local.bucket.fault = lambda method, path: next(broken, "") if method == "GET" and "series" in path else ""
    try:
        local.b.copies.bring(paths)
    except StoreUnavailable:
        assert local.b.has(paths) == 0
        local.b.copies.bring(paths)
    assert local.b.has(paths) == len(paths)
    for path in paths:
        assert (local.b.spool.root / path).read_bytes() == (local.a.spool.root / path).read_bytes()


def test_a_store_that_does_not_answer_is_told_as_that(local: Site) -> None:
    paths = local.a.receive(local.files)
    local.a.close()
    local.bucket.fault = lambda method, path: "away"
    with pytest.raises(StoreUnavailable, match=r"the object store http://127\.0\.0\.1:\d+, bucket .* cannot be used"):
        local.b.copies.bring(paths)
    assert "secret-of-the-test" not in str(local.bucket.settings())


def test_with_success_by_the_store_nothing_is_taken_while_it_is_away(tmp_path, bucket, database, clock) -> None:
    site = Site(tmp_path, bucket, database, clock, "store")
    site.a.receive(site.files[:1])
    bucket.fault = lambda method, path: "refuse" if method == "PUT" else ""
    with pytest.raises(SpoolError):
        site.a.receive(site.files[1:2])
    assert len(list((site.a.spool.root / "incoming").glob("*/*.dcm"))) == 1  # what was refused leaves nothing
    bucket.fault = lambda method, path: ""
    site.a.receive(site.files)
    site.a.close()
    assert site.state() == SeriesState.COMPLETE
    StoreRemoval(database, site.a.spool, 10**9, 30, clock).remove_objects()
    assert len(bucket.objects()) == 1  # the first one came twice, and was not kept twice


def test_what_was_acknowledged_survives_the_host_that_received_it(tmp_path, bucket, database, clock) -> None:
    """Success by the store: the host and its disk are lost before the series was packed."""
    site = Site(tmp_path, bucket, database, clock, "store")
    paths = site.a.receive(site.files)
    for path in paths:
        (site.a.spool.root / path).unlink()
    site.clock.advance(3601)
    site.b.close()
    assert site.state() == SeriesState.COMPLETE
    assert len(bucket.objects()) == 1  # packed by the other host, and nothing is left of the small ones
    assert site.b.has(paths) == len(paths)


def test_images_that_came_at_once_are_one_object(bucket) -> None:
    store = bucket.open()
    grouped = GroupedPuts(store, "ct1")
    first, places = threading.Event(), {}

    def hold_up(method: str, path: str) -> str:  # noqa: ARG001
        first.wait(10)
        return ""

    bucket.fault = hold_up

    def put(number: int) -> None:
        places[number] = grouped.put(f"incoming/20260101/{number}.dcm", b"%d" % number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while len([t for t in threads if t.is_alive()]) < 8 or not bucket.requests:
        first.wait(0.01)
    first.wait(0.2)
    first.set()
    for thread in threads:
        thread.join()
    assert len({place.name for place in places.values()}) == 2  # the first alone, and those that came meanwhile
    for number, place in places.items():
        assert store.get(place.name, place.offset, place.size_bytes) == b"%d" % number


def test_what_is_removed_goes_from_the_store_and_from_every_host(site: Site) -> None:
    paths = site.a.receive(site.files)
    site.a.close()
    site.b.copies.bring(paths)
    with site.database.transaction() as session:
        for row in session.scalars(select(JobRow)):
            row.state = JobState.HELD
    site.clock.advance(4 * 86400)
    retention = Retention(
        site.database, site.a.spool, RetentionSettings(input_days=1, failed_days=2), site.clock, cache_bytes=10**9
    )
    retention.run()
    retention.run()
    assert site.bucket.objects() == []
    assert site.a.has(paths) == 0
    StoreRemoval(site.database, site.b.spool, 10**9, 2, site.clock).clear_cache()
    assert site.b.has(paths) == 0


def test_the_cache_keeps_what_was_used_last_and_what_is_in_use(local: Site) -> None:
    paths = local.a.receive(local.files)
    local.a.close()
    size = sum((local.a.spool.root / path).stat().st_size for path in paths)
    now = local.clock().timestamp()
    for age, path in enumerate(paths):
        os.utime(local.a.spool.root / path, (now - 10_000 - age, now - 20_000))
    removal = StoreRemoval(local.database, local.a.spool, size // 2, 30, local.clock)
    job = local.a.queue.fetch_job("worker", 60)
    removal.clear_cache()
    assert local.a.has(paths) == len(paths)  # the job is being contoured
    with local.database.transaction() as session:
        session.get_one(JobRow, job.id).state = JobState.DELIVERING
    removal.clear_cache()
    kept = [path for path in paths if (local.a.spool.root / path).exists()]
    assert 0 < len(kept) < len(paths)
    assert kept == paths[: len(kept)]
    local.a.copies.bring(paths)
    assert local.a.has(paths) == len(paths)


def test_nothing_that_the_store_lacks_leaves_the_cache(local: Site) -> None:
    paths = local.a.receive(local.files)
    local.clock.advance(QUIET_S + 1)
    local.a.intake.close_quiet()
    local.clock.advance(86400)
    StoreRemoval(local.database, local.a.spool, 1, 30, local.clock).clear_cache()
    assert local.a.has(paths) == len(paths)


def test_a_kill_between_upload_and_index_loses_nothing_and_its_object_goes_as_an_orphan(
    local: Site, monkeypatch
) -> None:
    from contourd.transfer import uploading

    paths = local.a.receive(local.files)
    local.clock.advance(QUIET_S + 1)
    with monkeypatch.context() as patched:
        patched.setattr(uploading, "move_stored", killed)
        with pytest.raises(KeyboardInterrupt):
            local.a.uploader.run()
    assert (len(local.bucket.objects()), local.stored()) == (1, {})
    again = Uploader(local.database, local.a.spool, QUIET_S, local.clock)
    again.run()
    assert set(local.stored()) == set(paths)
    assert len(local.bucket.objects()) == 2
    later = datetime.now(UTC) + timedelta(days=31)
    StoreRemoval(local.database, local.a.spool, 10**9, 30, lambda: later).remove_orphans()
    assert local.bucket.objects() == sorted(set(local.stored().values()))


def killed(*what: object) -> int:  # noqa: ARG001
    raise KeyboardInterrupt


def test_two_hosts_that_pack_the_same_images_leave_one_object(tmp_path, bucket, database, clock) -> None:
    site = Site(tmp_path, bucket, database, clock, "store")
    paths = site.a.receive(site.files)
    site.clock.advance(3601)
    packed = threading.Barrier(2)

    def together(method: str, path: str) -> str:
        if method == "PUT" and "/series/" in path:
            packed.wait(20)  # each has packed before the other's index is written
        return ""

    bucket.fault = together
    threads = [threading.Thread(target=host.uploader.run) for host in (site.a, site.b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(site.stored()) == set(paths)
    assert len(bucket.objects()) == 1


@pytest.mark.parametrize("kept", ["the rows of images", "nothing"])
def test_a_database_that_was_lost_is_made_again_from_the_store(site: Site, tmp_path, kept: str) -> None:
    paths = site.a.receive(site.files)
    site.a.close()
    if kept == "nothing":
        database = Database(f"sqlite:///{tmp_path / 'new.sqlite'}")
        database.upgrade()
    else:
        database = site.database
        with database.transaction() as session:
            session.execute(StoredFileRow.__table__.delete())
        SeriesJournal(site.b.spool.root).add(JournalMark.RESTORED, "", "backup")
    fresh = Host(tmp_path / "fresh", "ct3", site.bucket, database, site.clock)
    SeriesJournal(fresh.spool.root).add(JournalMark.RESTORED, "", "backup")
    assert record_unrecorded(database, fresh.spool, fresh.intake) == (len(paths) if kept == "nothing" else 0)
    with database.reading() as session:
        assert set(session.scalars(select(InstanceRow.path))) == set(paths)
        assert set(session.scalars(select(StoredFileRow.path))) == set(paths)
    if kept == "nothing":
        database.close()


def test_what_waits_for_the_store_is_counted_on_each_host(local: Site) -> None:
    uploaders = [local.a.uploader, local.b.uploader]
    local.a.receive(local.files[:5])
    local.b.receive(local.files[5:7], 2)
    assert [one.count_waiting() for one in uploaders] == [5, 2]
    local.bucket.fault = lambda method, path: "refuse"
    local.a.close()
    assert [one.count_waiting() for one in uploaders] == [5, 2]
    local.bucket.fault = lambda method, path: ""
    local.a.close()
    assert [one.count_waiting() for one in uploaders] == [0, 2]
