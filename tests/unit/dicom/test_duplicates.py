"""One coherent set of images, or held: copies, a series that was sent twice, one UID on several slices, two names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from contourd.dicom.reading.series import Series, find_series, gate
from contourd.errors import SeriesUnusable
from tests.phantom import read_series, rewrite, setting, write_series

FIRST, SECOND = "1.2.840.1.", "1.2.840.2."
Change = Callable[[pydicom.Dataset, int], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 slices with random UIDs, whose dates and times are all the same."""
    made = write_series(tmp_path / "ct")
    for k, path in enumerate(sorted(made.iterdir())):
        rewrite(path, setting(SOPInstanceUID=random_uid(k)))
    return made


def random_uid(*entropy: object) -> str:
    return generate_uid(entropy_srcs=[str(part) for part in entropy])


def again(folder: Path, slices: range, change: Change) -> set[str]:
    """Send slices once more with UIDs of their own; returns these."""
    uids = set()
    for k in slices:
        copy = folder / f"again_{k:04d}.dcm"
        shutil.copy(folder / f"CT_{k:04d}.dcm", copy)
        rewrite(copy, setting(SOPInstanceUID=random_uid("again", k)))
        rewrite(copy, lambda ds, k=k: change(ds, k))
        uids.add(str(pydicom.dcmread(copy).SOPInstanceUID))
    return uids


def nothing(ds: pydicom.Dataset, k: int) -> None:
    pass


def numbered(root: str) -> Change:
    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.SOPInstanceUID = f"{root}{k + 1}"

    return change


def created(hour: int) -> Change:
    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.InstanceCreationDate, ds.InstanceCreationTime = "20260102", f"{hour:02d}00{k:02d}.5"

    return change


def chosen(series: Series) -> set[str]:
    return {i.sop_instance_uid for i in series.instances}


def first_ones(folder: Path) -> set[str]:
    return {str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.glob("CT_*.dcm")}


def test_two_sets_that_nothing_tells_apart_are_held(folder: Path) -> None:
    again(folder, range(24), nothing)
    with pytest.raises(
        SeriesUnusable, match=r"^the series is there twice: at 24 of 24 positions .* as a series of its"
    ):
        read_series(folder)


@pytest.mark.parametrize("slices", [range(24), range(5, 15)], ids=["whole", "in part"])
@pytest.mark.parametrize(("first", "second"), [(FIRST, SECOND), (SECOND, FIRST)])
def test_the_complete_set_is_told_by_its_uids(folder: Path, slices: range, first: str, second: str) -> None:
    for k, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, lambda ds, k=k: numbered(first)(ds, k))
    other = again(folder, slices, numbered(second))
    (instances,) = find_series(folder).values()
    for order in (instances, instances[::-1]):
        found = chosen(gate(order))
        assert found in (first_ones(folder), other)
        assert len(found) == 24


@pytest.mark.parametrize(("before", "after"), [(8, 11), (11, 8)])
def test_the_complete_set_is_told_by_when_it_was_made(folder: Path, before: int, after: int) -> None:
    for k, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, lambda ds, k=k: created(before)(ds, k))
    again(folder, range(5, 15), created(after))
    assert chosen(read_series(folder)) == first_ones(folder)


def test_times_that_overlap_tell_nothing(folder: Path) -> None:
    for k, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, lambda ds, k=k: created(8 + k % 2)(ds, k))
    again(folder, range(24), created(8))
    with pytest.raises(SeriesUnusable, match="there twice"):
        read_series(folder)


def test_two_halves_of_two_sets_make_none(folder: Path) -> None:
    """Neither set is whole: slices 0 to 13 have the one kind of UID, 10 to 23 the other."""
    for k, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, lambda ds, k=k: numbered(FIRST if k < 14 else SECOND)(ds, k))
    again(folder, range(10, 14), numbered(SECOND))
    with pytest.raises(SeriesUnusable, match="at 4 of 24 positions"):
        read_series(folder)


def test_a_copy_of_a_file_is_the_same_image(folder: Path) -> None:
    for k in range(24):
        shutil.copy(folder / f"CT_{k:04d}.dcm", folder / f"copy_{k:04d}.dcm")
    assert chosen(read_series(folder)) == first_ones(folder)


@pytest.mark.parametrize("slices", [1, 5], ids=["two alike", "six alike"])
def test_one_uid_on_several_slices_is_held_and_said(folder: Path, slices: int) -> None:
    uid = pydicom.dcmread(folder / "CT_0003.dcm").SOPInstanceUID
    for k in range(4, 4 + slices):
        rewrite(folder / f"CT_{k:04d}.dcm", setting(SOPInstanceUID=uid))
    with pytest.raises(SeriesUnusable) as caught:
        read_series(folder)
    assert f"{slices} of 24 images bear the SOP Instance UID of another one (z = -18.75" in str(caught.value)
    assert caught.value.reason.held_as == "sent_twice"
    assert uid not in str(caught.value)


def test_one_uid_and_one_place_with_other_pixels_is_held(folder: Path) -> None:
    def brighten(ds: pydicom.Dataset) -> None:
        ds.PixelData = b"\1\0" * (len(ds.PixelData) // 2)

    shutil.copy(folder / "CT_0003.dcm", folder / "other.dcm")
    rewrite(folder / "other.dcm", brighten)
    with pytest.raises(SeriesUnusable, match="an image is there twice with different content"):
        read_series(folder)


@pytest.mark.parametrize("of", ["SeriesInstanceUID", "StudyInstanceUID"])
def test_a_slice_with_the_uid_of_its_series_or_study_is_held(folder: Path, of: str) -> None:
    rewrite(folder / "CT_0003.dcm", lambda ds: setattr(ds, "SOPInstanceUID", ds[of].value))
    with pytest.raises(SeriesUnusable, match="the SOP Instance UID of a slice is that of its series or study"):
        read_series(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (setting(PatientName="Other^Name"), "2 patients' names"),
        (setting(PatientBirthDate="19500312"), "2 dates of birth"),
        (setting(PatientID="other"), "2 patients"),
    ],
)
def test_a_series_that_was_corrected_in_part_is_held(folder: Path, change: Callable[[pydicom.Dataset], None], what):
    for path in folder.iterdir():
        rewrite(path, setting(PatientBirthDate="19500311"))
    rewrite(folder / "CT_0009.dcm", change)
    with pytest.raises(SeriesUnusable, match=f"^the series mixes {what};"):
        read_series(folder)


@pytest.mark.parametrize(
    "change", [setting(PatientName=""), setting(PatientName="CT^TEST^^"), setting(PatientBirthDate="")]
)
def test_names_that_say_the_same_or_nothing_are_no_mixture(folder: Path, change) -> None:
    rewrite(folder / "CT_0009.dcm", change)
    assert len(read_series(folder).instances) == 24
