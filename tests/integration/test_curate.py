"""``contourd curate`` from mixed archives to a data set, twice, and with what does not belong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner, Result

from contourd.cli import app
from contourd.errors import DatasetError
from tests.archives import BALLS, add_roi, contour, head, loops, write_csv, write_dicom, write_pddca
from trainer.case import Annotation, read_case
from trainer.curation.conversion import READING
from trainer.curation.curate import Manifest, Options, curate
from trainer.curation.discovery import Source

PATIENTS = ("MRN-0001", "MRN-0002", "MRN-0003", "MRN-0004")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["curate", *map(str, arguments)], catch_exceptions=False)


def refusal(*arguments: object) -> str:
    with pytest.raises(DatasetError) as raised:
        run(*arguments)
    return str(raised.value)


def manifest(output: Path) -> Manifest:
    return Manifest.model_validate_json((output / "dataset.json").read_bytes())


def case_of(output: Path, patient: str):
    told = (output / "patients.csv").read_text().splitlines()
    identifier = next(line.split(",")[0] for line in told if patient in line)
    (split,) = [c.split for c in manifest(output).cases if c.identifier == identifier]
    return read_case(output / split / f"{identifier}.npz")


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    root = tmp_path / "clinic"
    for seed, patient in enumerate(PATIENTS):
        write_dicom(root / "2019" / patient, patient, seed)
    return root


def test_mixed_sources_become_one_data_set(clinic, tmp_path):
    write_pddca(tmp_path / "miccai" / "0522c0001", seed=10)
    write_csv(tmp_path / "kbp" / "train-pats" / "pt_1", seed=11)
    output = tmp_path / "out"
    assert run(clinic, tmp_path / "miccai", tmp_path / "kbp", "--output", output, "--workers", 2).exit_code == 0
    found = manifest(output)
    assert {c.source for c in found.cases} == {"clinic", "miccai", "kbp"}
    assert len(found.cases) == len(PATIENTS) + 2
    assert not found.left_out
    for case in found.cases:
        assert read_case(output / case.split / f"{case.identifier}.npz").annotations == case.annotations
    volume, masks = head()
    case = case_of(output, "MRN-0001")
    assert np.array_equal(case.volume.hu, volume.hu)
    assert case.masks.keys() == BALLS.keys()
    assert all(np.array_equal(case.masks[name], mask) for name, mask in masks.items())


def test_who_the_patients_are_is_for_the_owner_alone(clinic, tmp_path):
    output = tmp_path / "out"
    run(clinic, "--output", output)
    for name in ("patients.csv", ".identity-key"):
        assert stat.S_IMODE((output / name).stat().st_mode) == 0o600
    for path in output.rglob("*"):
        if path.is_file() and path.name != "patients.csv":
            assert not any(p.encode() in path.read_bytes() for p in PATIENTS), path
            assert "MRN" not in path.name


def test_a_second_run_makes_only_what_changed(clinic, tmp_path):
    output = tmp_path / "out"
    run(clinic, "--output", output)
    first = {c.identifier: c for c in manifest(output).cases}
    times = {path: path.stat().st_mtime_ns for path in (output / ".work").glob("*.npz")}
    write_dicom(clinic / "2020" / "MRN-0005", "MRN-0005", 5)
    run(clinic, "--output", output)
    second = {c.identifier: c for c in manifest(output).cases}
    assert len(second) == len(first) + 1
    assert all(second[name] == case for name, case in first.items())
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_review_file_decides(clinic, tmp_path):
    write_dicom(clinic / "odd", "MRN-0009", 9, lambda name: {"Brainstem": "Stem v2 (JD)"}.get(name, name))
    output = tmp_path / "out"
    assert "1 names are taken for nothing yet" in run(clinic, "--output", output).output
    assert "Brainstem" not in case_of(output, "MRN-0009").annotations
    names = (output / "names.toml").read_text()
    at = names.index("Stem v2 (JD)")
    names = names[:at] + names[at:].replace('taken_for = ""', 'taken_for = "Brainstem"', 1)
    (output / "names.toml").write_text(names)
    run(clinic, "--output", output)
    case = case_of(output, "MRN-0009")
    assert case.annotations["Brainstem"] is Annotation.PRESENT
    assert np.array_equal(case.masks["Brainstem"], head()[1]["Brainstem"])


def test_a_damaged_review_file_stops_the_run(clinic, tmp_path):
    output = tmp_path / "out"
    run(clinic, "--output", output)
    (output / "names.toml").write_text("[[")
    assert "names.toml" in refusal(clinic, "--output", output)


def test_an_organ_that_is_not_annotated_is_unknown_and_an_empty_one_absent(tmp_path):
    def lower(dataset):
        """The cord is drawn wholly under the field of view."""
        _, masks = head()
        shifted = [contour(points - [0, 0, 300]) for _, points in loops(masks["SpinalCord"])]
        del dataset.ROIContourSequence[-1], dataset.StructureSetROISequence[-1]
        add_roi(dataset, "SpinalCord", shifted)
        del dataset.ROIContourSequence[0], dataset.StructureSetROISequence[0]

    write_dicom(tmp_path / "clinic", "MRN-0001", change=lower)
    run(tmp_path / "clinic", "--output", tmp_path / "out")
    case = case_of(tmp_path / "out", "MRN-0001")
    assert case.annotation("Brainstem") is Annotation.UNKNOWN
    assert case.annotation("SpinalCord") is Annotation.ABSENT
    assert case.annotation("Parotid_L") is Annotation.PRESENT


def test_two_structures_for_one_organ_that_differ_are_unknown(tmp_path):
    other = [contour(points) for _, points in loops(head()[1]["Parotid_R"])]
    write_dicom(tmp_path / "clinic", "MRN-0001", change=lambda ds: add_roi(ds, "Brain Stem", other))
    run(tmp_path / "clinic", "--output", tmp_path / "out")
    (case,) = manifest(tmp_path / "out").cases
    assert "Brainstem" not in case.annotations
    assert "two structures are taken for it and differ" in " ".join(case.remarks)


def test_what_the_audit_excludes_is_unknown_and_said(tmp_path):
    """Of eleven patients one has left and right exchanged, as careless naming does."""
    exchanged = {"Parotid_L": "Parotid_R", "Parotid_R": "Parotid_L"}
    for seed in range(11):
        spell = (lambda name: exchanged.get(name, name)) if seed == 10 else str
        write_dicom(tmp_path / "clinic" / str(seed), f"MRN-{seed:04d}", seed, spell)
    output = tmp_path / "out"
    run(tmp_path / "clinic", "--output", output)
    case = case_of(output, "MRN-0010")
    assert case.annotations.keys() == {"Brainstem", "SpinalCord"}
    assert case.masks.keys() == {"Brainstem", "SpinalCord"}
    (told,) = [c for c in manifest(output).cases if c.excluded]
    assert told.excluded.keys() == exchanged.keys()
    assert all(reason.startswith("sides: ") for reasons in told.excluded.values() for reason in reasons)
    assert "sides" in (output / "report.html").read_text()
    run(tmp_path / "clinic", "--output", output, "--only-tell", "sides")
    assert case_of(output, "MRN-0010").annotations.keys() == BALLS.keys()


def test_splits_of_the_folders_are_kept(tmp_path):
    for seed, name in enumerate(("train-pats", "train-pats", "validation-pats", "test-pats")):
        write_csv(tmp_path / "kbp" / name / f"pt_{seed}", seed)
    output = tmp_path / "out"
    run(tmp_path / "kbp", "--output", output, "--keep-splits")
    assert {c.identifier: c.split for c in manifest(output).cases} == {
        "pt_0": "train",
        "pt_1": "train",
        "pt_2": "validation",
        "pt_3": "test",
    }


def test_a_patient_in_two_sources_is_refused(tmp_path):
    write_dicom(tmp_path / "north", "MRN-0001", 1)
    write_dicom(tmp_path / "south", "MRN-0001", 2)
    assert "are the same patient; leave one source out" in refusal(
        tmp_path / "north", tmp_path / "south", "--output", tmp_path / "out"
    )


def test_the_same_images_under_another_name_are_refused_between_sources_and_told_within(tmp_path):
    write_dicom(tmp_path / "north" / "a", "MRN-0001", 1)
    write_dicom(tmp_path / "north" / "b", "ANON-7", 1)
    run(tmp_path / "north", "--output", tmp_path / "out")
    found = manifest(tmp_path / "out")
    assert len(found.cases) == 1
    assert [reason.split(" as ")[0] for reason in found.left_out.values()] == ["has the same images"]
    write_dicom(tmp_path / "south", "OTHER-3", 1)
    assert "are the same images" in refusal(tmp_path / "north", tmp_path / "south", "--output", tmp_path / "out")


def test_a_patient_in_two_folders_of_splits_is_refused(tmp_path):
    for name in ("train", "test"):
        write_dicom(tmp_path / "clinic" / name, "MRN-0001")
    assert "the same patient is in" in refusal(tmp_path / "clinic", "--output", tmp_path / "out", "--keep-splits")
    run(tmp_path / "clinic", "--output", tmp_path / "out")
    (case,) = manifest(tmp_path / "out").cases
    assert case.annotations.keys() == BALLS.keys()


def test_what_cannot_be_read_is_an_entry_of_the_report(clinic, tmp_path):
    broken = clinic / "broken"
    write_dicom(broken, "MRN-0666", 66)
    sorted(broken.glob("CT*"))[20].unlink()
    (clinic / "notes.docx").write_bytes(os.urandom(5000))
    (clinic / "empty.dcm").touch()
    (clinic / "DICM").write_bytes(bytes(128) + b"DICM" + os.urandom(2000))
    output = tmp_path / "out"
    assert run(clinic, "--output", output).exit_code == 0
    found = manifest(output)
    assert len(found.cases) == len(PATIENTS)
    assert sorted(reason.split(":")[0] for reason in found.left_out.values())[0] == "cannot be read"
    assert any("missing" in reason for reason in found.left_out.values())
    report = (output / "report.html").read_text()
    assert "missing" in report
    assert "cannot be read" in report


def test_nothing_usable_is_an_error_with_its_reason_and_still_a_report(tmp_path):
    write_dicom(tmp_path / "clinic", "MRN-0001", spell=lambda name: f"x{hash(name) % 97}")
    assert "no structure of it is taken for an organ" in refusal(tmp_path / "clinic", "--output", tmp_path / "out")
    assert "no structure of it is taken for an organ" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "nothing").mkdir()
    assert "no DICOM, NRRD, CSV or .npz case was found" in refusal(tmp_path / "nothing", "--output", tmp_path / "out2")


def test_the_last_message_names_what_explains_that_nothing_is_left(tmp_path):
    """Not what was left out first: an older structure set, a CT of its own, a file that is no image."""

    def shift(dataset):
        for item in dataset.ROIContourSequence:
            item.ReferencedROINumber -= 1

    path = write_dicom(tmp_path / "clinic" / "b", "MRN-0001", change=shift)
    older = pydicom.dcmread(path)
    older.StructureSetDate = "19990101"
    older.save_as(path.with_name("A.dcm"))
    write_dicom(tmp_path / "clinic" / "a", "MRN-0002", 1).unlink()
    (tmp_path / "clinic" / "DICM").write_bytes(bytes(128) + b"DICM" + bytes(2000))
    told = refusal(tmp_path / "clinic", "--output", tmp_path / "out")
    assert "RTSTRUCT.dcm: contours refer to ROI number 0, which no ROI has" in told
    assert told.endswith("(3 more in report.html)")
    assert len(manifest(tmp_path / "out").left_out) == 4


def test_an_empty_data_set_names_the_organs_that_could_not_be_used(tmp_path):
    def offset(dataset):
        for item in dataset.ROIContourSequence:
            item.ContourSequence[0].ContourOffsetVector = [0, 0, 3]

    write_dicom(tmp_path / "clinic", "MRN-0001", change=offset)
    told = refusal(tmp_path / "clinic", "--output", tmp_path / "out")
    assert "no organ of it can be used; Brainstem (Brainstem): a contour has a Contour Offset Vector" in told


def test_what_was_made_by_an_older_way_of_reading_is_made_anew(tmp_path, monkeypatch):
    write_dicom(tmp_path / "clinic", "MRN-0001")
    output = tmp_path / "out"
    monkeypatch.setattr("trainer.curation.conversion.READING", READING - 1)
    run(tmp_path / "clinic", "--output", output)
    (before,) = (path.stat().st_mtime_ns for path in (output / ".work").glob("*.npz"))
    monkeypatch.undo()
    run(tmp_path / "clinic", "--output", output)
    (after,) = (path.stat().st_mtime_ns for path in (output / ".work").glob("*.npz"))
    assert after > before


def test_a_twin_across_the_splits_of_folders_is_not_trained_on(tmp_path):
    """The same head in another layout, whose box is larger, so that no hash sees it."""
    write_csv(tmp_path / "kbp" / "train-pats" / "pt_1", 1)
    write_csv(tmp_path / "kbp" / "train-pats" / "pt_2", 2)
    write_pddca(tmp_path / "kbp" / "test-pats" / "case_a", 1)
    output = tmp_path / "out"
    told = run(tmp_path / "kbp", "--output", output, "--keep-splits").output
    found = manifest(output)
    assert {c.identifier: c.split for c in found.cases} == {"pt_2": "train", "case_a": "test"}
    assert found.left_out == {"kbp: pt_1": "is the same person as case_a in test, and this split is train"}
    assert [(t.first, t.second, t.done) for t in found.twins] == [("case_a", "pt_1", "pt_1 left out")]
    assert "case_a and pt_1 are the same person" in told
    assert "is the same person as case_a in test" in (output / "report.html").read_text()


@pytest.mark.parametrize("seed", [0, 1])
def test_twins_of_two_sources_are_in_one_split(tmp_path, seed):
    for i in range(2):
        write_csv(tmp_path / "kbp" / f"pt_{i}", i)
        write_pddca(tmp_path / "pddca" / f"case_{i}", i)
    output = tmp_path / "out"
    shares = ("--validation-share", "0.5", "--test-share", "0", "--seed", str(seed))
    run(tmp_path / "kbp", tmp_path / "pddca", "--output", output, *shares)
    of = {c.identifier: c.split for c in manifest(output).cases}
    assert of["kbp-pt_0"] == of["pddca-case_0"]
    assert of["kbp-pt_1"] == of["pddca-case_1"]
    assert sorted(of.values()) == ["train", "train", "validation", "validation"]


def test_a_case_that_left_the_archive_leaves_the_data_set(clinic, tmp_path):
    output = tmp_path / "out"
    curate([Source("clinic", clinic)], output, Options())
    before = set(output.rglob("*.npz"))
    identifier = case_of(output, "MRN-0002").identifier
    for path in (clinic / "2019" / "MRN-0002").iterdir():
        path.unlink()
    curate([Source("clinic", clinic)], output, Options())
    gone = before - set(output.rglob("*.npz"))
    assert {path.name for path in gone} == {f"{identifier}.npz"}
    assert len(gone) == 2  # in its split, and in what the next run would go on from
    assert len(manifest(output).cases) == len(PATIENTS) - 1
    assert not list(output.rglob(f"{identifier}*"))
