"""From three cases to a bundle that contours a CT series, by the command line alone."""

from __future__ import annotations

import csv

import numpy as np
import pydicom
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from contourd.imaging.metrics import dice
from tests.interop.node import contourd
from tests.training import ORGANS, write_dataset
from trainer.case import read_case

RECIPE = """
name = "smoke"
[model]
structures = ["Brainstem", "Parotid_L", "Parotid_R"]
channels = [6, 6, 6, 6]
output_channels = 6
[preprocess]
spacing_mm = [6.0, 6.0, 6.0]
[[loss.stage]]
name = "dice_focal_balanced"
until = 60
[[loss.stage]]
name = "dice_focal"
[optimiser]
ema_decay = 0.9
[[optimiser.stage]]
learning_rate = 1e-2
weight_decay = 1e-2
warmup = 2
[schedule]
length = 90
validate_every = 90
checkpoint_every = 30
[augment]
rotation_deg = 0.0
scale = 0.0
elastic_mm = 0.0
cut = 0.0
"""


@pytest.mark.timeout(280)
def test_three_cases_make_a_model_that_contours(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    recipe = tmp_path / "smoke.toml"
    recipe.write_text(RECIPE)
    trained = contourd("train", dataset, "--output", tmp_path / "smoke", "--recipe", recipe, "--device", "cpu")
    assert trained.status == 0, trained.output
    with (tmp_path / "smoke.run" / "log.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 90
    assert np.mean(losses[-15:]) < 0.6 * np.mean(losses[:15])

    case = read_case(dataset / "validation" / "pt_0.npz")
    folder = write_ct_series(case.volume, tmp_path / "ct", SeriesIdentity("p1", "P1^Test"))
    done = contourd("contour", folder, "--output", tmp_path / "rt.dcm", "--model", tmp_path / "smoke")
    assert done.status == 0, done.output
    found = {roi.name: roi.contours for roi in read_structure_set(pydicom.dcmread(tmp_path / "rt.dcm"))}
    assert found.keys() == set(ORGANS)
    assert dice(case.masks["Brainstem"], rasterise(found["Brainstem"], case.volume.grid)) > 0.7

    report = tmp_path / "report"
    evaluated = contourd("evaluate", tmp_path / "smoke", dataset, "--output", report, "--device", "cpu")
    assert evaluated.status == 0, evaluated.output
    assert "| Brainstem | 1 |" in (report / "CARD.md").read_text()


def test_what_cannot_be_trained_is_one_message(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", train=1)
    for arguments, message in (
        ((tmp_path / "nowhere", "--recipe", "quick"), "no case"),
        ((dataset, "--recipe", "nothing"), "no such recipe"),
        ((dataset, "--recipe", "quick", "--initial", "nowhere"), "no model 'nowhere'"),
        ((dataset, "--recipe", "quick", "--initial", "hn7"), "its network has another pools, channels"),
    ):
        refused = contourd("train", *arguments, "--output", tmp_path / "out", "--device", "cpu")
        assert refused.status != 0
        assert message in refused.output
        assert "Traceback" not in refused.output
