"""Reading cases, samples, augmentation and recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from contourd.errors import DatasetError, SettingsError
from contourd.model.transforms import Preprocess, PreprocessConfig
from tests.training import ORGANS, STILL, write_case
from trainer.case import Annotation, find_cases, read_case
from trainer.training.augment import Augment
from trainer.training.config import (
    AugmentConfig,
    LossConfig,
    OptimiserConfig,
    check_recipe,
    find_recipe,
    load_recipe,
    read_toml,
)
from trainer.training.dataset import make_sample
from trainer.training.fit import to_target
from trainer.training.losses import LOSSES, DiceFocal
from trainer.training.optimisers import OPTIMISERS, SGD, AdamW


def test_a_case_is_upright_and_knows_its_sides(tmp_path):
    write_case(tmp_path / "a.npz")
    case = read_case(tmp_path / "a.npz")
    assert case.volume.grid.spacing_mm == (3.0, 4.0, 4.0)
    centres = {name: case.volume.grid.to_patient(np.argwhere(mask).mean(0))[0] for name, mask in case.masks.items()}
    assert centres["Parotid_R"][0] < -30 < 30 < centres["Parotid_L"][0]
    assert case.masks["Parotid_R"].sum() > case.masks["Parotid_L"].sum()
    assert case.volume.hu.min() == -1024
    assert set(np.unique(case.volume.hu)) == {-1024, 30, 150}


def test_present_absent_and_unknown_are_three_things(tmp_path):
    write_case(tmp_path / "a.npz", present=("Brainstem", "Larynx"))
    case = read_case(tmp_path / "a.npz")
    assert case.annotation("Brainstem") is Annotation.PRESENT
    assert case.annotation("Larynx") is Annotation.ABSENT
    assert case.annotation("Parotid_L") is Annotation.UNKNOWN
    sample = make_sample(case, ("Brainstem", "Larynx", "Parotid_L"), Preprocess(PreprocessConfig()))
    assert sample.annotated.tolist() == [True, True, False]
    assert sample.organs[0].any()
    assert not sample.organs[1:].any()


def test_unreadable_cases(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match=r"a\.npz"):
        read_case(tmp_path / "a.npz")
    write_case(tmp_path / "b.npz", present=("Heart",))
    with pytest.raises(DatasetError, match="Heart"):
        read_case(tmp_path / "b.npz")
    with pytest.raises(DatasetError, match="no case"):
        find_cases(tmp_path / "empty")


def test_a_sample_keeps_the_organ_s_volume(tmp_path):
    write_case(tmp_path / "a.npz")
    case = read_case(tmp_path / "a.npz")
    sample = make_sample(case, ORGANS, Preprocess(PreprocessConfig(spacing_mm=(4.0, 4.0, 4.0))))
    wanted = case.masks["Brainstem"].sum() * 48
    assert sample.organs[0].astype(float).sum() / 255 * 64 == pytest.approx(wanted, rel=0.03)


def pictures():
    image = torch.full((20, 18, 16), -1.0)
    image[4:16, 3:15, 3:13] = 0.2
    organs = torch.zeros(3, 20, 18, 16)
    organs[1, 8:12, 8:12, 4:6] = 1
    organs[2, 8:12, 8:12, 10:13] = 1
    return image, organs


def test_augmentation_without_ranges_changes_nothing():
    image, organs = pictures()
    augment = Augment(STILL, (4.0, 4.0, 4.0), (0, 2, 1))
    new_image, new_organs = augment(image, organs, np.random.default_rng(0))
    torch.testing.assert_close(new_image, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(new_organs, organs, atol=1e-4, rtol=0)


def test_a_mirror_image_exchanges_left_and_right():
    image, organs = pictures()
    augment = Augment(STILL.model_copy(update={"mirror": 1.0}), (4.0, 4.0, 4.0), (0, 2, 1))
    _, mirrored = augment(image, organs, np.random.default_rng(0))
    torch.testing.assert_close(mirrored[2], organs[1].flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored[1], organs[2].flip(-1), atol=1e-4, rtol=0)


def test_a_cut_field_of_view_keeps_image_and_organs_together():
    image, organs = pictures()
    augment = Augment(STILL.model_copy(update={"cut": 1.0, "shortest_mm": 30.0}), (4.0, 4.0, 4.0), (0, 2, 1))
    lengths = set()
    for seed in range(20):
        new_image, new_organs = augment(image, organs, np.random.default_rng(seed))
        assert new_image.shape == new_organs.shape[1:]
        lengths.add(new_image.shape[0])
    assert min(lengths) >= 8
    assert max(lengths) < 20
    assert len(lengths) > 4


def test_augmentation_depends_on_its_seed_alone():
    image, organs = pictures()
    augment = Augment(AugmentConfig(shortest_mm=40.0), (4.0, 4.0, 4.0), (0, 2, 1))
    first, second, other = (augment(image, organs, np.random.default_rng(s)) for s in (1, 1, 2))
    torch.testing.assert_close(first, second)
    assert first[0].shape != other[0].shape or not torch.allclose(first[0], other[0])


def test_an_organ_stays_where_it_is_in_the_image():
    """The organ's mark in the image and its label move together under every geometric change."""
    image, organs = pictures()
    image[organs[2] > 0] = 1.0
    only_geometry = AugmentConfig(contrast=0, brightness=0, noise=0, blur=0, shortest_mm=60.0)
    augment = Augment(only_geometry, (4.0, 4.0, 4.0), (0, 1, 2))
    for seed in range(5):
        new_image, new_organs = augment(image, organs, np.random.default_rng(seed))
        bright, organ = new_image > 0.6, new_organs[2] > 0.5
        assert 2 * (bright & organ).sum() >= 0.9 * (bright.sum() + organ.sum())


def test_target_with_background():
    organs = torch.zeros(2, 1, 1, 3)
    organs[0, 0, 0, 0] = 1
    organs[1, 0, 0, 1] = 0.25
    target, annotated = to_target(organs, [True, False])
    torch.testing.assert_close(target[0, :, 0, 0], torch.tensor([[0, 0.75, 1], [1, 0, 0], [0, 0.25, 0]]))
    assert annotated.tolist() == [[False, True, False]]


def test_stages_of_the_loss():
    loss = LossConfig.model_validate({"stage": [{"name": "dice", "until": 5}, {"name": "dice_ce"}]})
    assert [loss.at(step).name for step in (0, 4, 5, 1000)] == ["dice", "dice", "dice_ce", "dice_ce"]
    for ends in ([5], [None, None], [5, 5, None], [7, 5, None]):
        with pytest.raises(ValidationError, match="every stage"):
            LossConfig.model_validate({"stage": [{"until": end} for end in ends]})
    with pytest.raises(ValidationError, match="there must be a stage"):
        LossConfig.model_validate({"stage": []})


def test_a_recipe_gives_a_loss_and_an_optimiser_their_own_parameters():
    loss = LossConfig.model_validate({"stage": [{"name": "dice_focal", "lambda": 0.1, "gamma": 1.5}]})
    assert loss.at(0).term() == DiceFocal(lambda_=0.1, gamma=1.5)
    assert loss.model_dump(by_alias=True)["stage"] == (
        {"name": "dice_focal", "until": None, "lambda": 0.1, "gamma": 1.5},
    )
    optimiser = OptimiserConfig.model_validate({"stage": [{"name": "sgd", "momentum": 0.9}]})
    assert optimiser.stage[0].optimiser() == SGD(momentum=0.9)
    assert LossConfig().at(0).term() == DiceFocal()
    assert OptimiserConfig().stage[0].optimiser() == AdamW()


@pytest.mark.parametrize(
    ("section", "stage", "told"),
    [
        ("loss", {"name": "dise"}, f"'dise' is no loss: choose from {', '.join(LOSSES)}"),
        ("loss", {"name": 3}, "3 is no loss: choose from dice, "),
        (
            "loss",
            {"name": "dice_ce", "gama": 2},
            "the loss dice_ce has no parameter gama: it takes lambda, and every loss takes name, until",
        ),
        (
            "loss",
            {"name": "dice", "lambda": 0.5},
            "the loss dice has no parameter lambda: it takes none of its own, and",
        ),
        (
            "loss",
            {"name": "dice_focal", "gamma": -1},
            "the loss dice_focal: gamma: Input should be greater than or equal",
        ),
        ("loss", {"name": "dice", "until": 0}, "until: Input should be greater than or equal to 1"),
        ("optimiser", {"name": "adam"}, f"'adam' is no optimiser: choose from {', '.join(OPTIMISERS)}"),
        (
            "optimiser",
            {"momentum": 0.9},
            "the optimiser adamw has no parameter momentum: it takes weight_decay, and every",
        ),
    ],
)
def test_what_a_loss_or_an_optimiser_does_not_take_is_refused_by_name(section, stage, told):
    recipe = {**read_toml(find_recipe("quick")), section: {"stage": [stage]}}
    with pytest.raises(SettingsError) as caught:
        check_recipe(recipe, "mine.toml")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{section}.stage.0")
    assert told in problem


def test_every_loss_and_optimiser_stands_in_the_document_with_its_parameters():
    text = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    for registry in (LOSSES, OPTIMISERS):
        for name, entry in registry.items():
            defaults = entry().model_dump(by_alias=True)
            listed = ", ".join(f"`{key} = {value:g}`" for key, value in defaults.items()) or "none"
            assert f"| `{name}` | {listed} |" in text


def test_recipes(tmp_path):
    root = Path(__file__).resolve().parents[3]
    for path in (root / "etc" / "recipes").glob("*.toml"):
        assert load_recipe(path).name
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('name = "x"\n[model]\nstructures = ["a"]\npools = 9\n[loss]\nmising = "mask"\n')
    with pytest.raises(SettingsError) as error:
        load_recipe(wrong)
    assert len(error.value.problems) == 2
    with pytest.raises(SettingsError, match="cannot be read"):
        load_recipe(tmp_path / "absent.toml")
