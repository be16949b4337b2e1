"""The training loop: train, validate through Predictor, checkpoint, resume."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contourd.errors import DatasetError
from contourd.model.anatomynet import AnatomyNet
from contourd.model.bundle import ModelBundle, load_bundle, save_bundle
from contourd.model.plausibility import Distribution
from contourd.model.predictor import Predictor
from contourd.model.runtime import choose_device, place
from contourd.model.structures import etc_folder, mirrored_order
from contourd.model.transforms import Preprocess
from trainer.augment import Augment
from trainer.case import find_cases, read_case
from trainer.config import ScheduleConfig, TrainConfig, load_recipe
from trainer.dataset import FULL, Sample, make_sample, measure_split
from trainer.losses import Loss, class_weights
from trainer.metrics import dice

CHECKPOINT = "checkpoint.ckpt"
Scores = Mapping[str, float]


@dataclass(slots=True, eq=False)
class State:
    """All that a resumed run needs; random numbers are drawn from (seed, step) alone."""

    network: AnatomyNet
    average: AnatomyNet
    optimiser: torch.optim.Optimizer
    step: int = 0
    best: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path, config: TrainConfig) -> None:
        """Write the checkpoint through a temporary file, so that a kill leaves the old one or the new one."""
        temporary = path.with_suffix(".partial")
        content = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
            "history": self.history,
            "config": config.model_dump(mode="json", by_alias=True),
        }
        torch.save(content, temporary)
        temporary.replace(path)

    def load(self, path: Path, config: TrainConfig) -> None:
        """Continue from a checkpoint of the same network and data treatment.

        Raises
        ------
        DatasetError
            The checkpoint belongs to another model or preprocessing.
        """
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, current = content["config"], config.model_dump(mode="json", by_alias=True)
        if any(saved[part] != current[part] for part in ("model", "preprocess")):
            raise DatasetError(f"{path} was trained with another model or preprocessing: choose another output")
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step, self.best, self.history = content["step"], content["best"], content["history"]


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """Linear warm-up, plateau, linear decay to zero at the last step."""
    warm = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    left = (schedule.steps - step) / schedule.decay_steps if schedule.decay_steps else 1.0
    return peak * warm * min(1.0, left)


def order(cases: int, seed: int, step: int) -> int:
    """Index of the case of one step: every epoch is a permutation of its own."""
    epoch, position = divmod(step, cases)
    return int(np.random.default_rng([seed, epoch]).permutation(cases)[position])


def to_target(organs: Tensor, annotated: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Organ fractions (organs, d, h, w) -> target with background (1, C, d, h, w) and annotated (1, C) bool."""
    background = (1 - organs.sum(0, keepdim=True)).clamp(min=0)
    return torch.cat([background, organs])[None], torch.tensor([[all(annotated), *annotated]])


def load_samples(folder: Path, config: TrainConfig, cache: Path) -> Iterator[Sample]:
    """Yield the samples of a split, made once and kept in ``cache``."""
    preprocess = Preprocess(config.preprocess)
    fixed = json.dumps([config.preprocess.model_dump(mode="json"), config.model.structures])
    cache = cache / hashlib.sha256(fixed.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    for path in find_cases(folder):
        kept = cache / f"{path.stem}.npz"
        if kept.exists():
            with np.load(kept) as arrays:
                yield Sample(path.stem, arrays["image"], arrays["organs"], arrays["annotated"])
            continue
        sample = make_sample(read_case(path), config.model.structures, preprocess)
        partial = kept.with_suffix(".partial.npz")
        np.savez_compressed(partial, image=sample.image, organs=sample.organs, annotated=sample.annotated)
        partial.replace(kept)
        yield sample


def validate(predictor: Predictor, folder: Path) -> Scores:
    """Mean Dice per annotated organ over the cases of a split, on each CT's own grid."""
    scores: dict[str, list[float]] = {}
    for path in find_cases(folder):
        case = read_case(path)
        prediction = predictor.predict(case.volume)
        for name, truth in case.masks.items():
            if name in prediction.structures:
                predicted = prediction.mask(name).on(case.volume.grid.shape)
                scores.setdefault(name, []).append(dice(truth, predicted))
    return {name: float(np.mean(values)) for name, values in sorted(scores.items())}


def train_step(state: State, sample: Sample, config: TrainConfig, loss: Loss, weights: Tensor) -> float:
    """One optimiser step on one augmented volume; returns the loss."""
    device = next(state.network.parameters()).device
    rng = np.random.default_rng([config.seed, 1, state.step])
    augment = Augment(config.augment, config.preprocess.spacing_mm, mirrored_order(config.model.structures))
    image, organs = augment(torch.from_numpy(sample.image).float(), torch.from_numpy(sample.organs).float() / FULL, rng)
    target, annotated = to_target(organs, [bool(a) for a in sample.annotated])
    x = image[None, None].to(device, memory_format=torch.channels_last_3d)  # (1, 1, d, h, w)
    rate = learning_rate(state.step, config.optimiser.learning_rate, config.schedule)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.network.train()
    value = loss(state.network(x).float(), target.to(device), annotated.to(device), weights.to(device))
    state.optimiser.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.optimiser.gradient_norm)
    state.optimiser.step()
    state.step += 1
    _update_average(state, min(config.optimiser.ema_decay, (1 + state.step) / (10 + state.step)))
    return float(value.detach())


@torch.no_grad()
def _update_average(state: State, decay: float) -> None:
    pairs = zip(state.average.state_dict().values(), state.network.state_dict().values(), strict=True)
    for mean, new in pairs:
        if mean.dtype.is_floating_point:
            mean.lerp_(new, 1 - decay)
        else:
            mean.copy_(new)


def set_up(config: TrainConfig, device: torch.device) -> State:
    """Build the network, its moving average and the optimiser from the seed."""
    torch.manual_seed(config.seed)
    network = place(AnatomyNet(config.model), device)
    average = place(AnatomyNet(config.model), device)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=config.optimiser.weight_decay)
    return State(network, average, optimiser)


def fit(dataset: Path, output: Path, config: TrainConfig, device: str = "auto") -> State:
    """Train on ``dataset/train``, choose on ``dataset/validation``, write the best bundle to ``output``.

    The run's checkpoint, log and cache stand in ``<output>.run``; a run that was stopped goes on from there.
    """
    run_folder = output.with_name(output.name + ".run")
    run_folder.mkdir(parents=True, exist_ok=True)
    state = set_up(config, choose_device(device))
    if (run_folder / CHECKPOINT).exists():
        state.load(run_folder / CHECKPOINT, config)
        print(f"resuming at step {state.step} of {config.schedule.steps}", flush=True)
    samples = list(load_samples(dataset / "train", config, run_folder / "cache"))
    known = torch.tensor(np.stack([s.annotated for s in samples]))
    background = known.any(1) if config.loss.missing == "marginal" else known.all(1)
    distribution = measure_split(dataset / "train")
    weights = class_weights(torch.cat([background[:, None], known], dim=1))
    stages = {stage: Loss(stage.name, stage.lambda_, config.loss.missing) for stage in config.loss.stage}
    schedule, losses, began = config.schedule, list[float](), time.monotonic()
    while state.step < schedule.steps:
        sample = samples[order(len(samples), config.seed, state.step)]
        losses.append(train_step(state, sample, config, stages[config.loss.at(state.step)], weights))
        last = state.step == schedule.steps
        if state.step % 25 == 0 or last:
            pace = (time.monotonic() - began) / len(losses)
            recent = float(np.mean(losses[-25:]))
            print(f"step {state.step}/{schedule.steps}  loss {recent:.4f}  {pace:.2f} s/step", flush=True)
        if state.step % schedule.validate_every == 0 or last:
            predictor = Predictor(_write_bundle(run_folder / "last", state, config, distribution), device)
            if _is_best(state, validate(predictor, dataset / "validation"), run_folder):
                _write_bundle(output, state, config, distribution)
        if state.step % schedule.checkpoint_every == 0 or last:
            state.save(run_folder / CHECKPOINT, config)
    return state


def _is_best(state: State, scores: Scores, run_folder: Path) -> bool:
    """Take note of a validation; True where none was better."""
    mean = float(np.mean(list(scores.values())))
    state.history.append({"step": float(state.step), "mean": mean, **scores})
    with (run_folder / "validation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted({key for row in state.history for key in row}))
        writer.writeheader()
        writer.writerows(state.history)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
    print(f"step {state.step}  validation Dice {mean:.4f}  {shown}", flush=True)
    if not math.isfinite(mean) or mean <= state.best:
        return False
    state.best = mean
    return True


def _write_bundle(folder: Path, state: State, config: TrainConfig, distribution: Distribution) -> ModelBundle:
    """Write the averaged weights with what the run knows of them."""
    fields = {
        "name": config.name,
        "version": config.version,
        "model": config.model.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "mirror": any(partner != i for i, partner in enumerate(mirrored_order(config.model.structures))),
        "half_voxel": config.half_voxel,
        "limits": config.limits.model_dump(mode="json"),
        "distribution": {name: spread.model_dump(mode="json") for name, spread in distribution.items()},
        "provenance": {
            "recipe": config.model_dump(mode="json", by_alias=True),
            "step": state.step,
            "validation_dice": _scores_at(state),
        },
    }
    return save_bundle(folder, fields, state.average)


def _scores_at(state: State) -> Scores:
    """Return the validation Dice per organ of this very step; empty where it was not validated."""
    if not state.history or state.history[-1]["step"] != state.step:
        return {}
    return {name: value for name, value in state.history[-1].items() if name not in ("step", "mean")}


def run(dataset: Path, output: Path, recipe: Path | None = None, device: str = "auto") -> None:
    """Train from a recipe file (default: the shipped model's) as ``contourd train`` does.

    Raises
    ------
    SettingsError, DatasetError, DeviceError
        The recipe, the data set or the device cannot be used.
    """
    config = load_recipe(recipe or etc_folder() / "recipes" / "hn7.toml")
    state = fit(dataset, output, config, device)
    print(f"best validation Dice {state.best:.4f}: {load_bundle(output).folder}")
