"""What goes wrong in a hospital, each with a clear answer and nothing lost. DCMTK sends and receives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import MRImageStorage, generate_uid
from pynetdicom import AE, _config
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from contourd.dicom.reading.series import find_series, gate
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from tests.bright import BALL_CC, SPACING_MM, SeriesMaker, series_uid
from tests.interop.site import Site
from tests.peers import LOOPBACK, dciodvfy_errors, echoscu, storescu

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


def referenced_instances(rtstruct: pydicom.Dataset) -> set[str]:
    frame = rtstruct.ReferencedFrameOfReferenceSequence[0]
    images = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence
    return {str(image.ReferencedSOPInstanceUID) for image in images}


def sop_uids(folder: Path) -> set[str]:
    return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in folder.iterdir()}


def test_a_good_series(site: Site, make_series: SeriesMaker, tmp_path: Path) -> None:
    """The base of all others: the ball of the phantom comes back, with its volume, as a valid structure set."""
    folder = make_series("good")
    assert storescu(site.node.port, folder).status == 0
    site.wait_delivered(folder)
    (structure_set,) = site.received(folder)
    (ball,) = read_structure_set(structure_set)
    assert ball.name == "Brainstem"
    (instances,) = find_series(folder).values()
    volume_cc = (
        rasterise(ball.contours, gate(instances).grid).sum() * SPACING_MM[0] * SPACING_MM[1] * SPACING_MM[2] / 1e3
    )
    assert volume_cc == pytest.approx(BALL_CC, rel=0.1)
    structure_set.save_as(tmp_path / "rtstruct.dcm", enforce_file_format=True)
    assert dciodvfy_errors(tmp_path / "rtstruct.dcm") == []


def test_an_mr_series_is_not_accepted(site: Site, make_series: SeriesMaker) -> None:
    def to_mr(ds: pydicom.Dataset) -> None:
        ds.SOPClassUID, ds.Modality = MRImageStorage, "MR"

    sent = storescu(site.node.port, make_series("mr", to_mr))
    assert sent.status != 0
    assert "No Acceptable Presentation Contexts" in sent.output


def test_an_mr_series_in_the_clothes_of_a_ct_is_held(site: Site, make_series: SeriesMaker) -> None:
    folder = make_series("mr-as-ct", lambda ds: setattr(ds, "Modality", "MR"))
    assert storescu(site.node.port, folder).status == 0
    assert "MR" in site.wait_held(folder)
    assert site.received(folder) == []


def test_a_scout_is_held(site: Site, make_series: SeriesMaker) -> None:
    def to_scout(ds: pydicom.Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    folder = make_series("scout", to_scout, keep=slice(1))
    assert storescu(site.node.port, folder).status == 0
    assert "localizer" in site.wait_held(folder).lower()
    assert site.received(folder) == []


def test_a_missing_slice_is_named_and_mended_by_sending_it(site: Site, make_series: SeriesMaker) -> None:
    folder = make_series("gap")
    late = folder / "CT_0010.dcm"
    z_mm = float(pydicom.dcmread(late).ImagePositionPatient[2])
    aside = late.rename(folder.parent / "late.dcm")
    assert storescu(site.node.port, folder).status == 0
    assert f"{z_mm:.2f}" in site.wait_held(folder)
    assert site.received(folder) == []
    assert storescu(site.node.port, aside.rename(late)).status == 0
    site.wait_delivered(folder)
    (structure_set,) = site.received(folder)
    assert referenced_instances(structure_set) == sop_uids(folder)


def test_two_series_in_one_association(site: Site, make_series: SeriesMaker) -> None:
    first = make_series("two-a")
    header = pydicom.dcmread(first / "CT_0000.dcm", stop_before_pixels=True)

    def same_study(ds: pydicom.Dataset) -> None:
        ds.StudyInstanceUID, ds.PatientID = header.StudyInstanceUID, header.PatientID

    second = make_series("two-b", same_study)
    assert storescu(site.node.port, first, second).status == 0
    for folder in (first, second):
        site.wait_delivered(folder)
        (structure_set,) = site.received(folder)
        assert structure_set.StudyInstanceUID == header.StudyInstanceUID
        assert referenced_instances(structure_set) == sop_uids(folder)


def test_the_same_series_twice_gives_one_structure_set(site: Site, make_series: SeriesMaker) -> None:
    folder, next_one = make_series("twice"), make_series("after-twice")
    assert storescu(site.node.port, folder).status == 0
    site.wait_delivered(folder)
    assert storescu(site.node.port, folder).status == 0
    assert storescu(site.node.port, next_one).status == 0
    site.wait_delivered(next_one)
    assert len(site.received(folder)) == 1


def test_an_abort_in_mid_series_loses_nothing(site: Site, make_series: SeriesMaker) -> None:
    """Half of the series, an A-ABORT, and the whole series again, as scanners do: all of it is contoured."""
    folder = make_series("abort")
    half = sorted(folder.iterdir())[:12]
    storescu(site.node.port, *half, options=("--abort",))
    assert storescu(site.node.port, folder).status == 0
    site.wait_delivered(folder)
    structure_sets = site.received(folder)
    assert any(referenced_instances(ds) == sop_uids(folder) for ds in structure_sets)
    assert len({ds.SOPInstanceUID for ds in structure_sets}) == len(structure_sets)


def test_a_wrong_called_ae_title_is_rejected(site: Site, make_series: SeriesMaker) -> None:
    for answer in (
        echoscu(site.node.port, called="SOMEONE"),
        storescu(site.node.port, make_series("called"), called="SOMEONE"),
    ):
        assert answer.status != 0
        assert "Called AE Title Not Recognized" in answer.output
    assert echoscu(site.node.port).status == 0


def test_a_truncated_instance_is_refused_and_not_stored(
    site: Site, make_series: SeriesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DCMTK refuses to send a file that ends within its pixels, so its bytes go out as they are."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    folder = make_series("truncated")
    whole = folder / "CT_0007.dcm"
    cut = folder.parent / "cut.dcm"
    cut.write_bytes(whole.read_bytes()[:-1001])
    sender = AE("SCANNER")
    sender.add_requested_context(CTImageStorage, pydicom.dcmread(whole).file_meta.TransferSyntaxUID)
    association = sender.associate(LOOPBACK, site.node.port, ae_title="CONTOURD")
    assert association.is_established
    status = association.send_c_store(cut)
    association.release()
    assert 0xC000 <= status.Status <= 0xCFFF
    assert status.ErrorComment
    assert storescu(site.node.port, folder).status == 0
    site.wait_delivered(folder)
    (structure_set,) = site.received(folder)
    assert referenced_instances(structure_set) == sop_uids(folder)


def test_the_same_uid_with_other_pixels_is_held(site: Site, make_series: SeriesMaker) -> None:
    folder = make_series("changed")
    assert storescu(site.node.port, folder).status == 0
    path = folder / "CT_0003.dcm"
    ds = pydicom.dcmread(path)
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(path, enforce_file_format=True)
    assert storescu(site.node.port, path).status == 0
    assert ds.SOPInstanceUID in site.wait_held(folder) or "content" in site.wait_held(folder)


def test_twenty_series_at_once(site: Site, make_series: SeriesMaker) -> None:
    folders = [make_series(f"many-{i:02d}") for i in range(20)]
    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(lambda five: storescu(site.node.port, *five), [folders[i::4] for i in range(4)]))
    assert [answer.status for answer in answers] == [0, 0, 0, 0]
    for folder in folders:
        site.wait_delivered(folder)
    assert {series_uid(folder): len(site.received(folder)) for folder in folders} == {
        series_uid(folder): 1 for folder in folders
    }


def test_a_series_without_patient_id_is_held(site: Site, make_series: SeriesMaker) -> None:
    folder = make_series("nobody", lambda ds: setattr(ds, "PatientID", ""))
    assert storescu(site.node.port, folder).status == 0
    assert "PatientID" in site.wait_held(folder)


def test_a_second_frame_of_reference_is_held(site: Site, make_series: SeriesMaker) -> None:
    frames = iter([generate_uid() for _ in range(100)])
    folder = make_series("frames", lambda ds: setattr(ds, "FrameOfReferenceUID", next(frames)))
    assert storescu(site.node.port, folder).status == 0
    assert "frame" in site.wait_held(folder).lower()
