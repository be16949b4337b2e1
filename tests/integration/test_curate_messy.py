"""Real patients as a messy archive, written by the shared tool where it stands beside this checkout."""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contourd.model.spellings import NO_ORGAN
from trainer.case import read_case
from trainer.curation.curate import Manifest, Options, curate
from trainer.curation.discovery import Source

SHARED = Path(__file__).resolve().parents[3] / "shared"
TOOL, DATA = SHARED / "tools" / "dicom_archive.py", SHARED / "data" / "openkbp" / "train"
PATIENTS = ("pt_1", "pt_2")
pytestmark = pytest.mark.skipif(
    not (TOOL.exists() and DATA.exists()), reason="the shared archive is not beside this checkout"
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    subprocess.run([sys.executable, TOOL, "openkbp", folder / "dicom", "--patients", *PATIENTS], check=True)
    return folder / "dicom"


def test_every_spelling_is_right_no_distractor_is_an_organ_and_no_voxel_differs(archive, tmp_path):
    curation = curate([Source("clinic", archive)], tmp_path, Options(keep_chest=True))
    for one in curation.spellings:
        distractor = any(part in one.spelling for part in ("BODY", "PTV", "PRV", "+"))
        assert (one.reading.taken_for == NO_ORGAN) == distractor, one
    told = dict(line.split(",")[1::-1] for line in (tmp_path / "patients.csv").read_text().splitlines()[1:])
    manifest = Manifest.model_validate_json((tmp_path / "dataset.json").read_bytes())
    for patient in PATIENTS:
        truth = read_case(DATA / f"{patient}.npz")
        (case,) = [c for c in manifest.cases if c.identifier == told[patient]]
        made = read_case(tmp_path / case.split / f"{case.identifier}.npz")
        assert made.masks.keys() == truth.masks.keys()
        assert all(np.array_equal(made.masks[name], mask) for name, mask in truth.masks.items())
        assert np.array_equal(made.volume.hu, np.clip(truth.volume.hu, -1024, None))
    report = (tmp_path / "report.html").read_text()
    assert all(html.escape(one.spelling) in report for one in curation.spellings)
