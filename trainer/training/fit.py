"""The training loop: train, validate through Predictor, checkpoint, resume; by torchrun on several devices."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from contourd.errors import DeviceError, SeriesUnusable
from contourd.model.bundle import load_bundle, save_bundle
from contourd.model.bundle_config import ModelBundle
from contourd.model.kinds import predictor_for
from contourd.model.library import CARD_FILE
from contourd.model.predictor import Predictor
from contourd.model.structures import mirrored_order, unpaired
from contourd.model.transforms import Preprocess
from contourd.reasons.catalogue import HoldReason
from trainer.case import find_cases, read_case
from trainer.evaluation import dice, write_card
from trainer.progress import Bar, bar, duration_text
from trainer.training.augment import Augment
from trainer.training.config import TrainConfig
from trainer.training.dataset import FULL, Split, StoredSamples, load_split, store
from trainer.training.learning_rate import learning_rate
from trainer.training.log import Step, read_steps, write_steps, write_validations
from trainer.training.losses import Loss, class_weights
from trainer.training.parallel import Ranks, gathering, ranks
from trainer.training.patches import cut_patch
from trainer.training.report import Trained, write_training_report
from trainer.training.state import TrainingState, set_up

CHECKPOINT = "checkpoint.ckpt"
Scores = Mapping[str, float]


def place_in_data(cases: int, seed: int, number: int) -> int:
    """Index of the case of the ``number``-th sample of a run: every epoch is a permutation of its own."""
    epoch, position = divmod(number, cases)
    return int(np.random.default_rng([seed, epoch]).permutation(cases)[position])


def to_target(organs: Tensor, annotated: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Organ fractions (organs, d, h, w) -> target with background (1, C, d, h, w) and annotated (1, C) bool."""
    background = (1 - organs.sum(0, keepdim=True)).clamp(min=0)
    return torch.cat([background, organs])[None], torch.tensor([[all(annotated), *annotated]])


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTask:
    """What does not change during a run.

    Attributes
    ----------
    weights
        (C,): of each class in the loss.
    module
        The supervised network as this process calls it.
    """

    config: TrainConfig
    samples: Sequence[StoredSamples]
    weights: Tensor
    ranks: Ranks
    module: nn.Module

    def sample(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augment the ``number``-th sample: image (1, 1, d, h, w), target (1, C, d, h, w), annotated (1, C)."""
        config, device = self.config, self.ranks.device
        chosen = self.samples[place_in_data(len(self.samples), config.seed, number)]
        rng = np.random.default_rng([config.seed, 1, number])
        spacing_mm = config.preprocess.spacing_mm
        augment = Augment(config.augment, spacing_mm, mirrored_order(config.model.structures, config.known_pairs))
        image, organs = (t.to(device, non_blocking=True).float() for t in (chosen.image, chosen.organs))
        image, organs = augment(image, organs / FULL, rng)
        image, organs = cut_patch(image, organs, spacing_mm, config.patch, rng)
        target, annotated = to_target(organs, chosen.annotated)
        return image[None, None].contiguous(memory_format=torch.channels_last_3d), target, annotated.to(device)


def train_step(state: TrainingState, task: TrainingTask) -> Step:
    """Take one optimiser step on one batch; the step's loss is the mean over it, on all devices."""
    config = task.config
    began = time.monotonic()
    waited = 0.0
    total = 0.0
    state.enter_stage(config)
    rate = learning_rate(config.optimiser, state.step, config.schedule.length)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    loss = Loss(config.loss.at(state.step).term(), config.loss.missing)
    size, device = config.schedule.batch_size, task.ranks.device
    share = task.ranks.share(size)
    task.module.train()
    state.optimiser.zero_grad(set_to_none=True)
    for place in share:
        asked = time.monotonic()
        image, target, annotated = task.sample(state.step * size + place)
        waited += time.monotonic() - asked
        with gathering(task.module, place == share[-1]):
            with _autocast(config, device):
                value = task.module(image, target, annotated, task.weights, loss) / len(share)
            state.scaler.scale(value).backward()
        total += float(value.detach())
    state.scaler.unscale_(state.optimiser)
    if config.optimiser.gradient_norm:
        nn.utils.clip_grad_norm_(state.supervised.parameters(), config.optimiser.gradient_norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.step += 1
    _update_average(state, min(config.optimiser.ema_decay, (1 + state.step) / (10 + state.step)))
    epoch = (state.step * size - 1) // len(task.samples) + 1
    return Step(state.step, epoch, task.ranks.mean(total), rate, time.monotonic() - began, waited)


@contextmanager
def _autocast(config: TrainConfig, device: torch.device) -> Iterator[None]:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = kinds.get(config.compute.precision)
    if kind is None:
        yield
        return
    with torch.autocast(device.type, dtype=kind):
        yield


@torch.no_grad()
def _update_average(state: TrainingState, decay: float) -> None:
    pairs = zip(state.average.state_dict().values(), state.network.state_dict().values(), strict=True)
    for mean, new in pairs:
        if mean.dtype.is_floating_point:
            mean.lerp_(new, 1 - decay)
        else:
            mean.copy_(new)


def validate(predictor: Predictor, folder: Path) -> Scores:
    """Mean Dice per annotated organ over the cases of a split, on each CT's own grid; 0 where no patient is found."""
    scores: dict[str, list[float]] = {}
    for path in find_cases(folder):
        case = read_case(path)
        truths = {name: mask for name, mask in case.masks.items() if name in predictor.bundle.config.model.structures}
        try:
            prediction = predictor.predict(case.volume)
        except SeriesUnusable:
            for name in truths:
                scores.setdefault(name, []).append(0.0)
            continue
        for name, truth in truths.items():
            predicted = prediction.mask(name).on(case.volume.grid.shape)
            scores.setdefault(name, []).append(dice(truth, predicted))
    return {name: float(np.mean(values)) for name, values in sorted(scores.items())}


def fit(
    dataset: Path, output: Path, recipe: TrainConfig, device: str = "auto", steps: int | None = None
) -> TrainingState:
    """Train on ``dataset/train``, choose on ``dataset/validation``, write the best bundle to ``output``.

    The run's checkpoint, logs, report and cache stand in ``<output>.run``; a run that was stopped goes on from there.

    Parameters
    ----------
    steps
        After which the run ends at the latest, whatever the recipe says.

    Raises
    ------
    DatasetError, ModelError, DeviceError
        The data set, the model to begin with, the device or the checkpoint cannot be used.
    """
    folder = output.with_name(output.name + ".run")
    folder.mkdir(parents=True, exist_ok=True)
    with ranks(device) as own:
        _check_precision(recipe, own.device)
        state, split = set_up(recipe, own.device), _load(dataset, recipe, folder, own)
        config = recipe.in_steps(len(split.samples)).ending_at(steps)
        if (folder / CHECKPOINT).exists():
            changed = state.load(folder / CHECKPOINT, config)
            if own.writes:
                but = f"; the recipe's {', '.join(changed)} changed since" if changed else ""
                print(f"resuming at step {state.step} of {config.schedule.length}{but}", flush=True)
        task = TrainingTask(
            config,
            store(split.samples, own.device),
            _weights(split, config, own.device),
            own,
            _module(state, own, config),
        )
        run = Run(output, folder, dataset, split, read_steps(folder, state.step))
        _loop(state, task, run, device)
    return state


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Where a run reads and writes, and what it has written."""

    output: Path
    folder: Path
    dataset: Path
    split: Split
    steps: list[Step]


def _loop(state: TrainingState, task: TrainingTask, run: Run, device: str) -> None:
    schedule, writes = task.config.schedule, task.ranks.writes
    shown: Bar
    began, first = time.monotonic(), state.step
    with bar(schedule.length, task.config.name, state.step, writes) as shown:
        while state.step < schedule.length:
            run.steps.append(train_step(state, task))
            shown.advance()
            last = state.step == schedule.length
            validates = state.step % schedule.validate_every == 0 or last
            if writes and (last or state.step * schedule.batch_size % len(task.samples) < schedule.batch_size):
                left_s = (time.monotonic() - began) / (state.step - first) * (schedule.length - state.step)
                print(_epoch_line(run.steps, schedule.length, left_s), flush=True)
            if writes and validates:
                bundle = write_bundle(run.folder / "last", state, task.config, run.split)
                _record_validation(
                    state, validate(predictor_for(bundle, device), run.dataset / "validation"), task.config, run
                )
            if writes and (validates or state.step % schedule.checkpoint_every == 0):
                write_steps(run.folder, run.steps)
                state.save(run.folder / CHECKPOINT, task.config)
            if validates:
                task.ranks.wait()
    if writes and state.history:
        _report(state, task.config, run)


def _epoch_line(steps: Sequence[Step], length: int, left_s: float) -> str:
    epoch = [step for step in steps if step.epoch == steps[-1].epoch]
    seconds = sum(step.seconds for step in epoch)
    waited = sum(step.waited for step in epoch) / seconds if seconds else 0.0
    loss = float(np.mean([step.loss for step in epoch]))
    return (
        f"epoch {steps[-1].epoch}  step {steps[-1].step}/{length}  loss {loss:.4f}  "
        f"rate {steps[-1].learning_rate:.2e}  {seconds / len(epoch):.2f} s/step, {waited:.0%} of it for data, "
        f"{duration_text(left_s)} left"
    )


def _record_validation(state: TrainingState, scores: Scores, config: TrainConfig, run: Run) -> None:
    """Record a validation, keep the bundle if none was better, and write the report."""
    mean = float(np.mean(list(scores.values())))
    state.history.append({"step": float(state.step), "mean": mean, **scores})
    write_validations(run.folder, state.history)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
    print(f"step {state.step}  validation Dice {mean:.4f}  {shown}", flush=True)
    if math.isfinite(mean) and mean > state.best:
        state.best = mean
        state.best_step = state.step
        bundle = write_bundle(run.output, state, config, run.split)
        write_card(run.output / CARD_FILE, bundle, None, "validation")
    _report(state, config, run)


def _report(state: TrainingState, config: TrainConfig, run: Run) -> None:
    trained = Trained(config, run.split, tuple(run.steps), tuple(state.history), state.best_step)
    write_training_report(run.folder / "report.html", run.output, trained)


def _load(dataset: Path, recipe: TrainConfig, folder: Path, own: Ranks) -> Split:
    """Load the training split; the first process fills the cache for the others."""
    if not own.writes:
        own.wait()
    structures, preprocess = recipe.model.structures, Preprocess(recipe.preprocess)
    split = load_split(dataset / "train", structures, preprocess, folder / "cache", recipe.known_pairs)
    if own.writes:
        own.wait()
        for case, reason in split.refused.items():
            print(f"{case} is left out: {reason}", flush=True)
    return split


def _weights(split: Split, config: TrainConfig, device: torch.device) -> Tensor:
    known = torch.from_numpy(split.known)
    background = known.any(1) if config.loss.missing == "marginal" else known.all(1)
    return class_weights(torch.cat([background[:, None], known], dim=1)).to(device)


def _module(state: TrainingState, own: Ranks, config: TrainConfig) -> nn.Module:
    module = own.wrap(state.supervised)
    return torch.compile(module, dynamic=True) if config.compute.compile else module  # type: ignore[return-value]


def _check_precision(config: TrainConfig, device: torch.device) -> None:
    if config.compute.precision == "fp16" and device.type != "cuda":
        raise DeviceError(HoldReason.PRECISION_NEEDS_CUDA, key="compute.precision", instead="'fp32' or 'bf16'")


def write_bundle(folder: Path, state: TrainingState, config: TrainConfig, split: Split) -> ModelBundle:
    """Write the averaged weights with what the run knows of them."""
    mirror = bool(config.known_pairs) and not unpaired(config.model.structures, config.known_pairs)
    scores = {} if not state.history or state.history[-1]["step"] != state.step else state.history[-1]
    fields = {
        "name": config.name,
        "version": config.version,
        "kind": config.kind,
        "model": config.model.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "pairs": config.known_pairs,
        "mirror": mirror,
        "half_voxel": config.half_voxel,
        "limits": config.limits.model_dump(mode="json"),
        "distribution": {name: spread.model_dump(mode="json") for name, spread in split.distribution.items()},
        "provenance": {
            "recipe": config.model_dump(mode="json", by_alias=True),
            "initial_sha256": load_bundle(config.initial).sha256 if config.initial else "",
            "step": state.step,
            "cases": len(split.samples),
            "left_out": dict(split.refused),
            "annotated": dict(zip(config.model.structures, split.known.sum(0).tolist(), strict=True)),
            "validation_dice": {name: value for name, value in scores.items() if name not in ("step", "mean")},
        },
    }
    return save_bundle(folder, fields, state.average)


def run_training(
    dataset: Path, output: Path, recipe: TrainConfig, device: str = "auto", steps: int | None = None
) -> None:
    """Train as ``contourd train`` does, and say what came of it.

    Raises
    ------
    DatasetError, ModelError, DeviceError
        See fit.
    """
    state = fit(dataset, output, recipe, device, steps)
    print(f"best validation Dice {state.best:.4f} at step {state.best_step}: {output}")
    print(f"report: {output.with_name(output.name + '.run') / 'report.html'}")
