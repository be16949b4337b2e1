"""What a peer may send to take time, memory or sense: refused in words, and bounded."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage

from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.network.review_scp import read_identity
from contourd.dicom.reading.series_description import describe
from contourd.errors import ReviewUnusable, SeriesUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.reviews import reading
from contourd.reviews.apart import answered
from contourd.reviews.asking import Stopped, ask
from contourd.reviews.comparison import OrganComparison, without_patient
from contourd.reviews.reading import ReviewContents, read_bounded, read_contents
from contourd.store.states import OrganFate
from tests.reviewing import content_of, contours_of, edited


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "back.bin"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> HoldReason:
    with pytest.raises(ReviewUnusable) as raised:
        read_bounded(path)
    return raised.value.reason.code


def test_ten_thousand_rois(tmp_path, dataset):
    def many(ds: Dataset) -> None:
        item = ds.StructureSetROISequence[0]
        ds.StructureSetROISequence = [item] * 10_000

    path = written(tmp_path, content_of(edited(dataset, many)))
    assert refusal(path) == HoldReason.REVIEW_TOO_LARGE
    assert answered({"read": str(path)})["refused"]["detail"] == {"found": 10_000, "what": "ROIs", "most": 1000}


def test_three_million_points(tmp_path, dataset):
    """They are counted, and never made numbers of."""

    made = edited(dataset)
    item = contours_of(made, "Parotid_L").ContourSequence[0]
    item[0x30060050] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(0x30060050), "DS", 18_000_000, b"1\\" * 9_000_000, 0, True, True
    )
    path = written(tmp_path, content_of(made))
    assert path.stat().st_size > 17_000_000
    assert refusal(path) == HoldReason.REVIEW_TOO_LARGE


def test_a_hundred_thousand_contours(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(reading, "MOST_CONTOURS", 5)
    assert refusal(written(tmp_path, content_of(dataset))) == HoldReason.REVIEW_TOO_LARGE


def endless(group: int, element: int) -> bytes:
    """Begin sequences in sequences, of which none ends (PS3.5 7.5.2)."""
    begun = struct.pack("<HHL", group, element, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return begun * 20_000


@pytest.mark.parametrize("tag", [(0x0008, 0x1110), (0x3006, 0x0018)], ids=["before what names it", "behind it"])
def test_sequences_in_sequences_without_an_end(tmp_path, tag):
    meta = file_meta(RTStructureSetStorage, UID("1.2.3"), ImplicitVRLittleEndian)
    content = endless(*tag)
    path = written(tmp_path, meta + content)
    with pytest.raises(ReviewUnusable) as raised:
        ask({"read": str(path)}, threading.Event())
    assert raised.value.reason.code in (HoldReason.REVIEW_UNREADABLE, HoldReason.REVIEW_NOT_FINISHED)
    with pytest.raises(SeriesUnusable):  # nor does it name itself to the process that receives
        read_identity(memoryview(content), implicit=True)
    path.unlink()  # the suite reads every structure set that is left


def test_one_that_is_its_own_predecessor(tmp_path, dataset):
    def itself(ds: Dataset) -> None:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        ds.PredecessorStructureSetSequence = [item]

    contents = read_contents(written(tmp_path, content_of(edited(dataset, itself))))
    assert contents.predecessors == (contents.uid,)


def test_a_deflated_bomb(tmp_path, dataset):
    named = RTStructureSetStorage, UID(str(dataset.SOPInstanceUID))
    meta = file_meta(*named, DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(300 * 2**20)) + packer.flush()
    assert len(bomb) < 400_000
    path = written(tmp_path, meta + bomb)
    assert refusal(path) == HoldReason.REVIEW_UNREADABLE
    path.unlink()  # the suite reads every structure set that is left


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", bytes(132) + b"DICM"])
def test_what_is_no_structure_set(tmp_path, content):
    assert refusal(written(tmp_path, content)) == HoldReason.REVIEW_UNREADABLE


def test_another_process_answers_as_this_one_does(tmp_path, dataset):
    path = written(tmp_path, content_of(dataset))
    assert ReviewContents.of(ask({"read": str(path)}, threading.Event())["contents"]) == read_contents(path)
    path.write_bytes(b"")
    with pytest.raises(ReviewUnusable, match="cannot be read"):
        ask({"read": str(path)}, threading.Event())


def test_another_process_has_its_time_and_ends_with_the_node(tmp_path, dataset):
    path = written(tmp_path, content_of(dataset))
    with pytest.raises(ReviewUnusable) as raised:
        ask({"read": str(path)}, threading.Event(), longest_s=0.0)
    assert raised.value.reason.code == HoldReason.REVIEW_NOT_FINISHED
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Stopped):
        ask({"read": str(path)}, stopping)


def test_a_zone_and_a_date_that_are_none_are_nobodys(tmp_path, dataset):
    def odd(ds: Dataset) -> None:
        ds.ApprovalStatus = "APPROVED"
        ds.ReviewDate, ds.ReviewTime, ds.TimezoneOffsetFromUTC = "20260131", "101500.25", "+0100"

    assert read_contents(written(tmp_path, content_of(edited(dataset, odd)))).reviewed_at == "2026-01-31T09:15:00+00:00"
    later = edited(dataset, odd, lambda ds: setattr(ds, "ReviewDate", ""))
    assert read_contents(written(tmp_path, content_of(later))).reviewed_at == ""


def test_a_year_that_is_none_anywhere_is_no_date(tmp_path, dataset, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        empty = edited(dataset, lambda ds: setattr(ds, "ReviewDate", "00010101"))
        assert read_contents(written(tmp_path, content_of(empty))).reviewed_at == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_no_uid_is_asked_of_no_database(tmp_path, dataset):
    def odd(ds: Dataset) -> None:
        (series,) = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
        series[0x0020000E] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(0x0020000E), "UI", 8, b"1.2\x003.45", 0, True, True
        )

    contents = read_contents(written(tmp_path, content_of(edited(dataset, odd))))
    assert contents.series == ()
    assert contents.images
    assert not any("\0" in uid for uid in (*contents.series, *contents.images))


@pytest.mark.parametrize("name", ["GTV_{family}", "{family}GTV", "GTV_{number}", "boost {family}"])
def test_an_roi_that_is_called_by_the_patient_is_kept_without_its_name(dataset, name):
    def named(ds: Dataset) -> None:
        ds.PatientName, ds.PatientID = "Mueller^Jane", "471100"

    words = describe(edited(dataset, named)).words
    roi = name.format(family="Mueller", number="471100")
    kept = without_patient(OrganComparison("", roi, OrganFate.UNSURE, remark=f"{roi} twice"), words)
    assert (kept.roi, kept.remark) == ("", "")
    plain = OrganComparison("Parotid_L", "Parotid_L", OrganFate.TOUCHED, remark="points between slices")
    assert without_patient(plain, words) == plain
