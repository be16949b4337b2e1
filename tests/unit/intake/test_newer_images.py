"""Images that came again with other content: a person decides, and nothing ends with the patient that was corrected."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.reading.patient_identity import read_identity
from contourd.errors import InvalidTransition, SeriesUnusable
from contourd.intake.newer_images import remove_decided
from contourd.model.model_identity import ModelIdentity
from contourd.model.runtime_description import RuntimeDescription
from contourd.observe.overview import read_job, read_series
from contourd.observe.report import read_report
from contourd.observe.status import with_patients
from contourd.operations.operations import Operations
from contourd.reasons.catalogue import command_for_series
from contourd.settings import DatabaseSettings, Destination, NodeSettings, Route, Settings, SpoolSettings
from contourd.store.contourings import Contouring, images_sha256
from contourd.store.states import JobState, SeriesState
from contourd.store.tables import AuditRow, InstanceRow, NewerImageRow
from contourd.web.scenes import SceneCache
from tests.intake_node import SETTINGS, Node, ct, edit
from tests.queueing import POLICY, TAKEN

pytestmark = pytest.mark.both_databases

PROFILES = {"pacs": {"rtstruct": "usual"}}


def corrected(paths: list[Path], **changes) -> list[Path]:
    """Correct the images at their source: the same instances with other values."""
    return [edit(path, **(changes or {"PatientID": "corrected"})) for path in paths]


def operations(node: Node) -> Operations:
    return Operations(node.database, "marie", node.root, lambda: node.now)


def replace(node: Node) -> str:
    return operations(node).replace_images(node.series().id, SETTINGS.gapped_s, "ID corrected, order 4711")


def release(node: Node, reason: str = "looked at") -> None:
    operations(node).release_series(node.series().id, SETTINGS.gapped_s, reason)


def patients(node: Node, paths) -> set[str]:
    return {read_identity(node.root / path)["PatientID"] for path in paths}


def deliver(node: Node) -> None:
    job = node.queue.fetch_job("w", 60)
    node.queue.finish_job(job.claim, {"pacs": "structures.dcm"})
    deliveries = Deliveries(node.database, POLICY, lambda: node.now)
    deliveries.finish_delivery(deliveries.fetch_delivery("pacs"), TAKEN)


@pytest.mark.parametrize("moment", ["receiving", "queued", "contouring", "confirming", "delivered"])
def test_a_corrected_patient_is_what_is_contoured_whenever_it_comes(node, tmp_path, moment):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    if moment != "receiving":
        node.wait(10)
    if moment in ("contouring", "confirming"):
        with node.database.transaction() as session:
            session.get_one(type(node.jobs()[0]), 1).confirm = moment == "confirming"
        claimed = node.queue.fetch_job("w", 60)
        if moment == "confirming":
            node.queue.finish_job(claimed.claim, {"pacs": "structures.dcm"})
    if moment == "delivered":
        deliver(node)
    node.send(corrected(paths))
    assert node.series().state == SeriesState.HELD
    assert str(node.series().reason) == (
        "20 images were sent twice with different content: PatientID differs; if that is a correction, have the whole "
        "series sent again and take it: `contourd replace 1 --reason WHY`"
    )
    assert node.series().reason.held_as == "sent_twice"
    assert command_for_series(1, node.series().reason).startswith("contourd replace 1 --reason REASON")
    assert [line.event for line in read_series(node.database, 1).events].count("hold") == 1  # not one for each image
    node.send(corrected(paths))  # once more the same
    assert len(list(node.root.glob("*.dcm"))) == 40
    node.wait(1000)
    assert node.queue.fetch_job("w", 60) is None
    with pytest.raises(InvalidTransition, match=r"PatientID: the earlier ones are not contoured any more.*replace"):
        release(node)
    told = replace(node)
    assert ("job 1 to pacs" in told) == (moment == "delivered")
    node.wait(0)
    job = node.queue.fetch_job("w", 60)
    assert patients(node, job.paths) == {"corrected"}
    assert len(job.paths) == 20
    others = [j.state for j in node.jobs() if j.id != job.id]
    assert others == ([] if moment == "receiving" else [JobState.DELIVERED if moment == "delivered" else "SUPERSEDED"])
    assert len(list(node.root.glob("*.dcm"))) == 20  # the earlier files are gone
    with node.database.reading() as session:
        assert session.scalars(select(NewerImageRow)).all() == []
        (audited,) = session.scalars(select(AuditRow).where(AuditRow.action == "replace"))
    assert audited.detail.startswith("ID corrected, order 4711; 20 images of series 1 were replaced")


@pytest.mark.parametrize("act", ["retry", "resend", "recontour", "confirm"])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_more_is_done_with_the_earlier_ones(node, tmp_path, act, replaced):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    deliver(node)
    node.send(corrected(paths))
    if replaced:
        replace(node)
        node.wait(0)
    by = operations(node)
    acts = {
        "retry": lambda: by.retry(1),
        "resend": lambda: by.resend(1, "pacs", PROFILES),
        "recontour": lambda: by.recontour(1, "hn7"),
        "confirm": lambda: by.confirm(1),
    }
    told = r"corrected at their source and replaced; take job 2" if replaced else "came again as another patient's: see"
    with pytest.raises(InvalidTransition, match=told):
        acts[act]()


def settings_of(node: Node) -> Settings:
    return Settings(
        node=NodeSettings(),
        spool=SpoolSettings(root=node.root),
        database=DatabaseSettings(url=node.database.url),
        destination=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1),),
        route=(Route(model="hn7", destinations=("pacs",)),),
    )


def test_the_job_of_the_earlier_ones_names_no_patient_and_shows_no_picture(node, tmp_path):
    """The queue keeps the newer images alone: they are not what the earlier job was about."""
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    deliver(node)
    before = with_patients(read_report(node.database), settings_of(node))
    assert [job.patient for job in before.jobs] == ["A^B (p)"]
    node.send(corrected(paths))
    replace(node)
    node.wait(0)
    report = read_report(node.database)
    told = with_patients(report, settings_of(node))
    unknown = "(not known any more: its images were replaced)"
    assert {job.id: job.patient for job in report.jobs} == {1: unknown, 2: "pseudonym"}
    assert {job.id: job.patient for job in told.jobs} == {1: unknown, 2: "A^B (corrected)"}
    assert {job.id: job.patient_replaced for job in report.jobs} == {1: True, 2: False}
    assert [read_job(node.database, job).replaced for job in (1, 2)] == [True, False]
    with pytest.raises(SeriesUnusable, match="its images were replaced by newer ones"):
        SceneCache(node.root, 10**9).scene(read_job(node.database, 1))


@pytest.mark.parametrize("late", [False, True])
def test_pictures_are_those_of_the_images_that_were_contoured(node, tmp_path, late):
    """Other pixels of the same patient are other pictures; a slice that came late is one more."""
    paths = ct(tmp_path / "ct", slices=21)
    node.send(paths[:20])
    node.wait(10)
    job = node.queue.fetch_job("w", 60)
    with node.database.reading() as session:
        hashes = session.scalars(select(InstanceRow.sha256)).all()
    runtime = RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2)
    made = Contouring(ModelIdentity("hn7", "1", ""), "1", runtime, {}, "{}", 20, images_sha256(hashes), ())
    node.queue.finish_job(job.claim, {"pacs": "structures.dcm"}, contouring=made)
    assert not read_job(node.database, 1).replaced
    if late:
        node.send(paths[20:])
    else:
        node.send([brightened(path) for path in paths[:20]])
        replace(node)
    node.wait(10)
    assert len(node.jobs()) == 2
    assert read_job(node.database, 1).replaced is not late
    assert [job.patient for job in read_report(node.database).jobs] == ["pseudonym"] * 2


def test_a_series_that_came_again_in_part_is_no_patients(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    node.send(corrected(paths[:12]))
    with pytest.raises(InvalidTransition, match=r"12 of 20 images came again, and the others .* another PatientID"):
        replace(node)
    with pytest.raises(InvalidTransition, match="12 images of series 1 came again with another PatientID"):
        release(node)
    node.send(corrected(paths[12:]))
    replace(node)
    node.wait(0)
    assert patients(node, node.queue.fetch_job("w", 60).paths) == {"corrected"}


@pytest.mark.parametrize(
    "changes",
    [{"PatientName": "Doe^Jane"}, {"PatientBirthDate": "19500312"}, {"AccessionNumber": "4711"}, {"PatientSex": "F"}],
)
def test_other_attributes_of_the_patient_are_corrected_in_the_same_way(node, tmp_path, changes):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.send(corrected(paths, **changes))
    (keyword,) = changes
    assert f"different content: {keyword} differs" in str(node.series().reason)
    assert next(iter(changes.values())) not in str(node.series().reason)
    with pytest.raises(InvalidTransition):
        release(node)
    replace(node)
    node.wait(0)
    (job,) = node.jobs()
    assert job.state == JobState.QUEUED


def test_a_correction_that_was_wrong_is_corrected_once_more(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    for name in ("wrong", "right"):
        node.send(corrected(paths, PatientID=name))
    replace(node)
    node.wait(0)
    assert patients(node, node.queue.fetch_job("w", 60).paths) == {"right"}
    assert len(list(node.root.glob("*.dcm"))) == 20


def test_a_correction_that_is_taken_back_waits_for_a_person(node, tmp_path):
    first, paths = ct(tmp_path / "first"), ct(tmp_path / "ct")
    node.send(first)
    node.send(corrected(paths))
    node.send(first)
    node.wait(1000)
    assert node.series().state == SeriesState.HELD
    assert "then again as it was at first" in str(node.series().reason)
    with pytest.raises(InvalidTransition, match="give a reason"):
        release(node, "")
    release(node)
    node.wait(0)
    assert patients(node, node.queue.fetch_job("w", 60).paths) == {"p"}


def brightened(path: Path) -> Path:
    return edit(path, PixelData=b"\1\0" * 64)


@pytest.mark.parametrize("delivered", [False, True])
def test_other_pixels_of_the_same_patient_are_a_persons_choice(node, tmp_path, delivered):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.wait(10)
    if delivered:
        deliver(node)
    node.send([brightened(paths[3])])
    assert [job.state for job in node.jobs()] == [JobState.DELIVERED if delivered else JobState.SUPERSEDED]
    assert str(node.series().reason).startswith("an image was sent twice with different content; look at the sender")
    with pytest.raises(InvalidTransition, match="give a reason"):
        release(node, "")
    release(node)
    node.wait(0)
    assert node.series().state == SeriesState.COMPLETE
    # What was delivered of the images that are kept is what it was.
    assert [job.state for job in node.jobs()] == ([JobState.DELIVERED] if delivered else ["SUPERSEDED", "QUEUED"])
    assert len(list(node.root.glob("*.dcm"))) == 20


def test_another_slice_does_not_make_it_forgotten(node, tmp_path):
    paths = ct(tmp_path / "ct", slices=21)
    node.send(paths[:20])
    node.send([brightened(paths[3])])
    node.send(paths[20:])
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    assert "different content" in str(node.series().reason)


def test_a_file_that_has_changed_meanwhile_is_not_taken(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.send(corrected(paths))
    (node.root / "30.dcm").write_bytes(b"rotten")
    with pytest.raises(InvalidTransition, match="1 of the newer images have changed on the disk"):
        replace(node)


def test_a_kill_before_the_earlier_files_are_removed_is_taken_up(node, tmp_path, monkeypatch):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.send(corrected(paths))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("contourd.operations.operations.remove_decided", killed)
    with pytest.raises(KeyboardInterrupt):
        replace(node)
    assert len(list(node.root.glob("*.dcm"))) == 40
    with node.database.reading() as session:
        kept = set(session.scalars(select(InstanceRow.path)))
    remove_decided(node.database, node.root)
    assert {path.name for path in node.root.glob("*.dcm")} == kept
    assert patients(node, kept) == {"corrected"}


def test_the_page_knows_what_can_be_done(node, tmp_path):
    paths = ct(tmp_path / "ct")
    node.send(paths)
    node.send(corrected(paths[:5]))
    detail = read_series(node.database, 1)
    assert (detail.newer, detail.renamed) == (5, True)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_slice_of_its_own_is_no_version_of_another(node, tmp_path, renamed):
    """Each UID stands on two neighbours: either half has even spacing, and would be contoured as if it were all."""
    paths = ct(tmp_path / "ct", slices=40)
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths]
    twins = [
        edit(path, SOPInstanceUID=uid, **({"PatientID": "other"} if renamed else {}))
        for path, uid in zip(paths[1::2], uids[::2], strict=True)
    ]
    node.send([path for pair in zip(paths[::2], twins, strict=True) for path in pair])
    node.wait(60)
    assert (node.series().state, node.instances()) == (SeriesState.HELD, 20)
    reason = node.series().reason
    assert str(reason).startswith(
        "one SOP Instance UID stands on several slices (20 UIDs do); have the source give each"
    )
    assert command_for_series(1, reason) == ""
    with pytest.raises(InvalidTransition, match=r"several slices: without the images at z = .* the series would lack"):
        replace(node)
    with pytest.raises(InvalidTransition, match=r"the series would lack|with another PatientID"):
        release(node)
    node.send(paths[::2])  # again as they were at first: the others are slices all the same
    with pytest.raises(InvalidTransition, match=r"the series would lack|with another PatientID"):
        release(node)
    node.wait(60)
    assert (node.series().state, node.jobs()) == (SeriesState.HELD, [])
