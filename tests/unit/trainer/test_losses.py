"""The losses: masked, weighted, differentiable, and with hand-made values."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.training.losses import LOSSES, Dice, DiceCrossEntropy, DiceFocal, ExpLog, Loss, class_weights

ALL = pytest.mark.parametrize("missing", ["mask", "marginal"])
EACH = pytest.mark.parametrize("name", LOSSES)
CLASSES = 4


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).double()


def example(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, CLASSES, 3, 4, 5, generator=generator, dtype=torch.float64)
    target = one_hot(torch.randint(0, CLASSES, (2, 3, 4, 5), generator=generator))
    return logits, target, torch.ones(2, CLASSES, dtype=torch.bool), torch.ones(CLASSES, dtype=torch.float64)


@EACH
@ALL
def test_what_an_unannotated_organ_s_target_says_changes_nothing(name, missing):
    logits, target, annotated, weights = example()
    annotated[0, 2] = False
    loss = Loss(LOSSES[name](), missing)
    before = loss(logits, target, annotated, weights)
    target[0, 2] = 1 - target[0, 2]
    torch.testing.assert_close(loss(logits, target, annotated, weights), before)


@EACH
@ALL
def test_nothing_annotated_is_zero_without_nan(name, missing):
    logits, target, annotated, weights = example()
    logits.requires_grad_()
    value = Loss(LOSSES[name](), missing)(logits, target, torch.zeros_like(annotated), weights)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.isnan().any()
    assert logits.grad.abs().sum() == 0


@EACH
@ALL
def test_perfect_is_the_minimum(name, missing):
    _, target, annotated, weights = example()
    annotated[1, 3] = False
    if missing == "marginal":
        target[1, 0] += target[1, 3]
        target[1, 3] = 0
    loss = Loss(LOSSES[name](), missing)
    perfect = loss(40 * (target - 0.5), target, annotated, weights)
    assert perfect < 0.1
    for seed in range(5):
        assert perfect < loss(example(seed + 1)[0], target, annotated, weights)


@EACH
@ALL
def test_gradient(name, missing):
    logits, target, annotated, weights = example()
    annotated[0, 1] = False
    loss = Loss(LOSSES[name](), missing)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, annotated, weights), logits.requires_grad_())


def test_dice_by_hand():
    # Two classes, four voxels, probability 1/2 everywhere, two voxels organ:
    # each class: overlap 1, total 2 + 2, with one voxel of smoothing 1 - (2 + 1) / (4 + 1) = 0.4.
    target = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 1]]]).reshape(1, 2, 1, 1, 4)
    value = Loss(Dice())(torch.zeros(1, 2, 1, 1, 4), target, torch.ones(1, 2, dtype=torch.bool), torch.ones(2))
    assert value.item() == pytest.approx(0.8)


def test_a_focal_term_that_favours_nothing_is_the_cross_entropy():
    logits, target = torch.randn(1, 3, 2, 4, 4), torch.softmax(torch.randn(1, 3, 2, 4, 4), 1)
    arguments = logits, target, torch.ones(1, 3, dtype=torch.bool), torch.ones(3)
    focal, entropy = Loss(DiceFocal(lambda_=0.7, gamma=0)), Loss(DiceCrossEntropy(lambda_=0.7))
    torch.testing.assert_close(focal(*arguments), entropy(*arguments))
    assert Loss(DiceFocal(lambda_=0.7))(*arguments) < focal(*arguments)  # what is nearly right counts less


def test_hybrids_by_hand():
    target = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 1]]]).reshape(1, 2, 1, 1, 4)
    arguments = torch.zeros(1, 2, 1, 1, 4), target, torch.ones(1, 2, dtype=torch.bool), torch.ones(2)
    # Focal per class: two of four voxels with (1/2)^2 ln 2 -> ln 2 / 8; cross entropy ln 2 / 2.
    assert Loss(DiceFocal(lambda_=0.5))(*arguments).item() == pytest.approx(0.8 + 0.5 * 2 * math.log(2) / 8)
    assert Loss(DiceCrossEntropy(lambda_=0.1))(*arguments).item() == pytest.approx(0.8 + 0.1 * 2 * math.log(2) / 2)
    assert Loss(ExpLog())(*arguments).item() == pytest.approx(2 * (-math.log(0.6)) ** 0.3, rel=1e-5)


def test_an_absent_organ_costs_what_is_predicted_of_it():
    logits = torch.zeros(1, 2, 1, 1, 4)
    target = torch.tensor([[[1.0, 1, 1, 1], [0, 0, 0, 0]]]).reshape(1, 2, 1, 1, 4)
    annotated, weights = torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.0, 1.0])
    some = Loss(Dice())(logits, target, annotated, weights)
    logits[:, 0] = 30
    assert some.item() == pytest.approx(1 - 1 / 3)  # nothing overlaps, two voxels' worth predicted
    assert Loss(Dice())(logits, target, annotated, weights).item() == pytest.approx(0, abs=1e-6)


def test_mask_leaves_the_background_alone_unless_every_organ_is_annotated():
    logits, target, annotated, _ = example()
    weights = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    assert Loss(Dice())(logits, target, annotated, weights) > 0
    annotated[:, 2] = False
    assert Loss(Dice())(logits, target, annotated, weights) == 0


def test_marginal_counts_an_unknown_organ_as_background():
    # All of the probability on the unknown organ: the merged background is right everywhere.
    logits = torch.zeros(1, 3, 1, 1, 4)
    logits[:, 2] = 40
    target = torch.zeros(1, 3, 1, 1, 4)
    annotated = torch.tensor([[False, True, False]])
    value = Loss(Dice(), "marginal")(logits, target, annotated, torch.ones(3))
    assert value.item() == pytest.approx(0, abs=1e-5)


def test_weights_scale_their_class():
    logits, target, annotated, weights = example()
    loss = Loss(DiceFocal())
    single = [loss(logits, target, annotated, torch.eye(CLASSES, dtype=torch.float64)[c]) for c in range(CLASSES)]
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    expected = sum(w * s for w, s in zip(weights, single, strict=True))
    torch.testing.assert_close(loss(logits, target, annotated, weights), expected)


def test_class_weights_of_equation_3():
    annotated = torch.tensor([[True, True, False], [True, False, False], [True, True, False], [True, True, False]])
    # Counts 4, 3, 0: weights 1/4 and 1/3 over their mean 7/24.
    torch.testing.assert_close(class_weights(annotated), torch.tensor([6 / 7, 8 / 7, 0.0]))


# name, missing -> value of the seeded example with organ 1 of the second image unannotated.
FIXED = {
    ("dice", "mask"): 2.183378,
    ("dice", "marginal"): 2.440639,
    ("exp_log", "mask"): 3.256894,
    ("exp_log", "marginal"): 3.710463,
    ("dice_focal", "mask"): 2.663861,
    ("dice_focal", "marginal"): 2.966719,
    ("dice_ce", "mask"): 2.842383,
    ("dice_ce", "marginal"): 3.201728,
    ("dice_focal_balanced", "mask"): 2.431535,
    ("dice_focal_balanced", "marginal"): 2.710004,
}


@pytest.mark.parametrize(("name", "missing"), FIXED)
def test_fixed_values(name, missing):
    logits, target, annotated, weights = example()
    annotated[1, 1] = False
    value = Loss(LOSSES[name](), missing)(logits, target, annotated, weights)
    assert value.item() == pytest.approx(FIXED[name, missing], abs=1e-5)
