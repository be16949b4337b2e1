"""All that a run needs to go on: weights, their average, the optimiser, and what was measured; and its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from contourd.errors import DatasetError, ModelError
from contourd.model.bundle import load_bundle
from contourd.model.kinds import require_own
from contourd.model.lattice_bundle import LatticeBundle
from contourd.model.network import Network, NetworkConfig
from contourd.model.networks import FIRST_KIND, NETWORKS, build_network
from contourd.model.runtime import place
from contourd.reasons.catalogue import HoldReason
from trainer.atomic import replacing
from trainer.training.config import TrainConfig
from trainer.training.deep_supervision import Supervised
from trainer.training.learning_rate import stage_at

FIXED = ("kind", "model", "preprocess", "patch", "seed", "initial")


@dataclass(slots=True, eq=False)
class TrainingState:
    """A run between two steps; random numbers are drawn from (seed, step, place in the batch) alone.

    Attributes
    ----------
    average
        The moving average of the weights: what is validated and kept.
    stage
        Index of the optimiser's stage.
    history
        One row per validation: step, mean, organ -> Dice.
    """

    supervised: Supervised
    average: Network
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stage: int = 0
    step: int = 0
    best: float = -1.0
    best_step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def network(self) -> Network:
        """The network that is trained."""
        return self.supervised.network

    def enter_stage(self, config: TrainConfig) -> None:
        """Begin with a new optimiser where the step belongs to the next stage."""
        index = stage_at(config.optimiser, self.step)
        if index != self.stage:
            self.stage = index
            self.optimiser = _optimiser(self.supervised, config, index)

    def save(self, path: Path, config: TrainConfig) -> None:
        """Write the checkpoint through a temporary file, so that a kill leaves the old one or the new one."""
        content = {
            "supervised": self.supervised.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stage": self.stage,
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "history": self.history,
            "config": config.model_dump(mode="json", by_alias=True),
        }
        with replacing(path) as partial:
            torch.save(content, partial)

    def load(self, path: Path, config: TrainConfig) -> tuple[str, ...]:
        """Continue from a checkpoint of the same network and data treatment.

        Returns
        -------
        The recipe's sections that differ from the checkpoint's: from here on the new ones hold.

        Raises
        ------
        DatasetError
            The checkpoint belongs to another model, preprocessing, seed or beginning, or cannot be read.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            saved = {"kind": FIRST_KIND, **content["config"]}
        except (OSError, RuntimeError, KeyError, EOFError, UnpicklingError) as error:
            raise DatasetError(f"{path} cannot be read; remove it to begin anew ({type(error).__name__})") from error
        current = config.model_dump(mode="json", by_alias=True)
        changed = tuple(key for key in current if saved.get(key) != current[key])
        fixed = [key for key in changed if key in FIXED]
        if fixed or saved["loss"]["deep_supervision"] != current["loss"]["deep_supervision"]:
            names = ", ".join(fixed) or "loss.deep_supervision"
            raise DatasetError(f"{path} was trained with another {names}: choose another --output, or remove it")
        self.supervised.load_state_dict(content["supervised"])
        self.average.load_state_dict(content["average"])
        self.step = content["step"]
        self.stage = min(content["stage"], len(config.optimiser.stage) - 1)
        self.optimiser = _optimiser(self.supervised, config, self.stage)
        if saved["optimiser"]["stage"][content["stage"]]["name"] == config.optimiser.stage[self.stage].name:
            self.optimiser.load_state_dict(content["optimiser"])
        self.scaler.load_state_dict(content["scaler"])
        self.best = content["best"]
        self.best_step = content["best_step"]
        self.history = content["history"]
        return changed


def set_up(config: TrainConfig, device: torch.device) -> TrainingState:
    """Build the network, its moving average and the optimiser from the seed, or from another model's weights.

    Raises
    ------
    ModelError
        The model to begin with is missing or has another network.
    """
    torch.manual_seed(config.seed)
    network = build_network(config.kind, config.model)
    if config.initial:
        begin_with(network, require_own(load_bundle(config.initial)))
    supervised = place(Supervised(network, config.loss.deep_supervision), device)
    average = place(build_network(config.kind, config.model), device)
    average.load_state_dict(network.state_dict())
    scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "fp16")
    return TrainingState(supervised, average, _optimiser(supervised, config, 0), scaler)


def _optimiser(module: nn.Module, config: TrainConfig, index: int) -> torch.optim.Optimizer:
    return config.optimiser.stage[index].optimiser().over(module.parameters())


@torch.no_grad()
def begin_with(network: Network, bundle: LatticeBundle) -> None:
    """Take the weights of a model with the same network; organs that it does not know keep their random ones.

    Raises
    ------
    ModelError
        Its network differs, or is of a kind that takes over no single organs, and its organs differ.
    """
    own, other = network.config, bundle.config.model
    differing = (
        ["kind"] if type(network) is not NETWORKS[bundle.config.kind] else _differing(own, other, network.organ_weights)
    )
    if differing:
        raise ModelError(HoldReason.MODEL_NO_BEGINNING, folder=str(bundle.folder), differing=", ".join(differing))
    weights = bundle.network().state_dict()
    mine = network.state_dict()
    rows = [0, *(1 + other.structures.index(name) if name in other.structures else -1 for name in own.structures)]
    for key in mine:
        if key.startswith(network.organ_weights):
            for row, source in enumerate(rows):
                if source >= 0:
                    mine[key][row] = weights[key][source]
        else:
            mine[key].copy_(weights[key])


def _differing(own: NetworkConfig, other: NetworkConfig, organ_weights: tuple[str, ...]) -> list[str]:
    """Name what two networks of one kind differ in, but for organs that can be taken over one by one."""
    free = {"structures"} if organ_weights else set()
    return [key for key in type(own).model_fields if key not in free and getattr(own, key) != getattr(other, key)]
