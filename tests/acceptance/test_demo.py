"""`contourd demo`: the main job end to end, with the shipped model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pydicom
import pytest

from contourd.acceptance.reference_patient import reference_series


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "contourd", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.timeout(900)
def test_the_reference_patient(tmp_path):
    done = demo("--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    scores = dict(re.findall(r"^(\w+)\s+[\d.]+ cc\s+Dice ([\d.]+)", done.stdout, re.MULTILINE))
    assert set(scores) >= {"Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Bone_Mandible"}
    assert all(float(scores[name]) > 0.5 for name in ("Brainstem", "Parotid_L", "Parotid_R", "Bone_Mandible"))
    structure_set = pydicom.dcmread(tmp_path / "out" / "rtstruct.dcm")
    assert structure_set.Modality == "RTSTRUCT"
    assert matplotlib.image.imread(tmp_path / "out" / "contours.png").shape[:2] == (1050, 1500)


@pytest.mark.timeout(900)
def test_a_folder_with_a_gap_ends_with_the_reason(tmp_path):
    folder = reference_series(tmp_path / "ct")
    sorted(folder.iterdir())[20].unlink()
    done = demo(folder, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "missing slices at z = " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_images(tmp_path):
    done = demo(tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "no CT series" in done.stderr
