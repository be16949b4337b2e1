"""Reading cases, augmentation, and a training run that can be killed and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from contourd.errors import DatasetError, SettingsError
from contourd.model.bundle import load_bundle
from contourd.model.transforms import Preprocess, PreprocessConfig
from trainer.augment import Augment
from trainer.case import Annotation, find_cases, read_case
from trainer.config import AugmentConfig, LossConfig, ScheduleConfig, TrainConfig, load_recipe
from trainer.dataset import make_sample
from trainer.fit import CHECKPOINT, fit, learning_rate, order, to_target
from trainer.metrics import dice

ORGANS = ("Brainstem", "Parotid_L", "Parotid_R")
STILL = AugmentConfig(
    rotation_deg=0, scale=0, shift_mm=0, elastic_mm=0, contrast=0, brightness=0, noise=0, blur=0, mirror=0, cut=0
)


def write_case(path: Path, seed: int = 0, present=("Brainstem", "RightParotid", "LeftParotid")) -> None:
    """A head with a bright ball in the middle, one on the right and a smaller one on the left, in OpenKBP's axes."""
    up = np.zeros((40, 44, 44), dtype=np.int16)
    z, y, x = np.indices(up.shape)
    up[((x - 21.5) / 17) ** 2 + ((y - 21.5) / 20) ** 2 <= 1] = 1024 + 30
    bits = np.zeros(up.shape, dtype=np.uint8)
    shift = seed % 3
    for bit, (cy, cx, radius) in {0: (22, 22, 6), 2: (24, 11, 5), 3: (24, 33, 4)}.items():
        ball = (z - 20 - shift) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        up[ball] = 1024 + 150
        bits[ball] |= 1 << bit
    np.savez(
        path,
        ct=up[::-1].transpose(1, 2, 0),
        lab=bits[::-1].transpose(1, 2, 0),
        present=np.array(present),
        spacing=np.array([4.0, 4.0, 3.0]),
    )


@pytest.fixture
def dataset(tmp_path) -> Path:
    for split, count in (("train", 3), ("validation", 1)):
        folder = tmp_path / "dataset" / split
        folder.mkdir(parents=True)
        for i in range(count):
            write_case(folder / f"pt_{i}.npz", i)
    return tmp_path / "dataset"


def config(steps: int, **more) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "model": {"structures": ORGANS, "channels": (6, 6, 6, 6), "output_channels": 6},
            "preprocess": {"spacing_mm": (6.0, 6.0, 6.0)},
            "loss": {"stage": [{"name": "dice_focal_balanced", "until": 60}, {"name": "dice_focal"}]},
            "schedule": {
                "steps": steps,
                "warmup_steps": 2,
                "decay_steps": 0,
                "validate_every": 1000,
                "checkpoint_every": 3,
            },
            **more,
        }
    )


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


def test_learning_rate():
    schedule = ScheduleConfig(steps=100, warmup_steps=10, decay_steps=20)
    rates = [learning_rate(step, 2.0, schedule) for step in (0, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.2, 2.0, 2.0, 2.0, 1.0, 0.1])


def test_stages_of_the_loss():
    loss = LossConfig.model_validate({"stage": [{"name": "dice", "until": 5}, {"name": "dice_ce"}]})
    assert [loss.at(step).name for step in (0, 4, 5, 1000)] == ["dice", "dice", "dice_ce", "dice_ce"]
    for ends in ([5], [None, None], [5, 5, None], [7, 5, None]):
        with pytest.raises(ValidationError, match="every stage"):
            LossConfig.model_validate({"stage": [{"until": end} for end in ends]})


def test_every_epoch_sees_every_case_once():
    first, second = ([order(7, 5, step) for step in range(start, start + 7)] for start in (0, 7))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_a_resumed_run_equals_an_uninterrupted_one(dataset, tmp_path):
    torch.set_num_threads(1)
    whole = fit(dataset, tmp_path / "whole", config(6), "cpu")
    fit(dataset, tmp_path / "parts", config(3), "cpu")
    resumed = fit(dataset, tmp_path / "parts", config(6), "cpu")
    assert resumed.step == whole.step == 6
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_learns_and_writes_the_best_bundle(dataset, tmp_path):
    torch.set_num_threads(1)
    easy = {"optimiser": {"learning_rate": 1e-2, "ema_decay": 0.9}, "augment": STILL.model_dump()}
    state = fit(dataset, tmp_path / "bundle", config(90, **easy), "cpu")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.config.model.structures == ORGANS
    assert bundle.config.mirror
    assert state.best > 0.6
    assert bundle.config.provenance["validation_dice"].keys() == set(ORGANS)
    assert (tmp_path / "bundle.run" / CHECKPOINT).exists()


def test_a_checkpoint_of_another_network_is_refused(dataset, tmp_path):
    fit(dataset, tmp_path / "run", config(1), "cpu")
    other = config(2, model={"structures": ORGANS, "channels": (4, 4, 4, 4)})
    with pytest.raises(DatasetError, match="another model"):
        fit(dataset, tmp_path / "run", other, "cpu")


def test_recipes(tmp_path):
    root = Path(__file__).parents[2]
    for path in (root / "etc" / "recipes").glob("*.toml"):
        assert load_recipe(path).name
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('name = "x"\n[model]\nstructures = ["a"]\npools = 9\n[loss]\nmising = "mask"\n')
    with pytest.raises(SettingsError) as error:
        load_recipe(wrong)
    assert len(error.value.problems) == 2
    with pytest.raises(SettingsError, match="cannot be read"):
        load_recipe(tmp_path / "absent.toml")


def test_dice_by_hand():
    a = np.zeros((2, 2, 2), dtype=bool)
    b = a.copy()
    assert np.isnan(dice(a, b))
    a[0, 0] = True  # two voxels
    assert dice(a, b) == 0
    b[0] = True  # four voxels, two shared
    assert dice(a, b) == pytest.approx(4 / 6)
