"""The path of docs/training.md from a clone of the open-kbp repository to a released bundle, on two patients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contourd.model.bundle import load_bundle
from tests.archives import write_csv
from tests.interop.node import contourd
from trainer.training.ablation_grid import load_grid
from trainer.training.config import find_recipe, load_recipe

RECIPE = """
name = "{name}"
[model]
structures = ["Brainstem", "Parotid_L", "Parotid_R"]
channels = [6, 6, 6, 6]
output_channels = 6
[preprocess]
spacing_mm = {spacing}
[[loss.stage]]
name = "dice_focal_balanced"
[[optimiser.stage]]
learning_rate = 1e-2
warmup = 2
[schedule]
length = 12
validate_every = 12
"""


def step(*arguments: object) -> str:
    done = contourd(*arguments)
    assert done.status == 0, done.output
    return done.output


@pytest.mark.timeout(280)
def test_two_patients_go_all_the_way(tmp_path: Path):
    clone = tmp_path / "open-kbp" / "provided-data"
    write_csv(clone / "train-pats" / "pt_1", 1)
    write_csv(clone / "validation-pats" / "pt_201", 2)
    dataset, coarse, fine = tmp_path / "openkbp", tmp_path / "coarse", tmp_path / "fine"
    told = step("curate", clone, "--output", dataset, "--keep-splits", "--keep-chest")
    assert "2 cases: 1 train, 1 validation" in told
    for name, spacing in (("coarse", "[6.0, 6.0, 6.0]"), ("fine", "[4.0, 5.0, 5.0]")):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(name=name, spacing=spacing))
    step("train", dataset, "--output", coarse, "--recipe", tmp_path / "coarse.toml", "--device", "cpu")
    step("train", dataset, "--output", fine, "--recipe", tmp_path / "fine.toml", "--initial", coarse, "--device", "cpu")
    made = load_bundle(fine).config
    assert made.provenance["initial_sha256"] == load_bundle(coarse).sha256
    assert made.preprocess.spacing_mm == (4.0, 5.0, 5.0)
    step("evaluate", fine, dataset, "--output", tmp_path / "report", "--device", "cpu")
    assert (tmp_path / "report" / "report.html").is_file()
    measured = json.loads((tmp_path / "report" / "report.json").read_text())
    assert measured


def test_the_commands_in_the_documentation_name_what_ships():
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    assert "--recipe hn7\n" in text
    made, recipe = load_bundle("hn7").config, load_recipe(find_recipe("hn7"))
    assert (made.model, made.preprocess, made.half_voxel) == (recipe.model, recipe.preprocess, recipe.half_voxel)
    assert "contourd ablate quick" in text
    assert load_grid("quick").recipe == "quick"
