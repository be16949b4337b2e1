"""A bundle of an nnU-Net v2: the weights of its folds, and what nnunetv2 needs of its plans to run them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from contourd.errors import ModelError
from contourd.model.bundle_config import BundleConfig, ModelBundle
from contourd.model.library import WEIGHTS_FILE
from contourd.model.nnunet_plans import NnunetModel
from contourd.model.tensors import refuse_other_shapes
from contourd.reasons.catalogue import HoldReason
from contourd.system.logs import one_line

NNUNET = "nnunet"
Weights = Mapping[str, Tensor]


class NnunetConfig(BundleConfig):
    """model.json of an nnU-Net."""

    kind: Literal["nnunet"] = "nnunet"
    model: NnunetModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what nnunetv2 prints and warns of where it is imported or made: folders that only training needs."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def nnunetv2() -> Any:
    """Return the parts of nnunetv2 that are used.

    Raises
    ------
    ModelError
        It is not installed.
    """
    try:
        with quiet():
            from nnunetv2.inference.data_iterators import PreprocessAdapterFromNpy
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
            from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
    except ImportError as error:
        raise ModelError(HoldReason.NNUNET_NOT_INSTALLED, said=one_line(error)) from error
    return SimpleNamespace(
        Preprocessed=PreprocessAdapterFromNpy,
        Predictor=nnUNetPredictor,
        network=get_network_from_plans,
        Configuration=ConfigurationManager,
        Plans=PlansManager,
    )


def build_nnunet(model: NnunetModel) -> nn.Module:
    """Build the network of the plans, without memory for its weights.

    Raises
    ------
    ModelError
        nnunetv2 is not installed, or cannot build it.
    """
    parts, architecture = nnunetv2(), model.planned["architecture"]
    kwargs = dict(architecture["arch_kwargs"])
    imported = [key for key in architecture["_kw_requires_import"] if key in kwargs]
    try:
        with quiet(), torch.device("meta"):
            network: nn.Module = parts.network(
                architecture["network_class_name"],
                kwargs,
                imported,
                len(model.dataset["channel_names"]),
                len(model.dataset["labels"]) - ("ignore" in model.dataset["labels"]),
                allow_init=False,
                deep_supervision=False,
            )
    except (TypeError, ValueError, AssertionError, RuntimeError, IndexError, KeyError, ImportError) as error:
        raise ModelError(HoldReason.NETWORK_NOT_BUILT, said=one_line(error)) from error
    return network.eval()


def stored_names(network: nn.Module) -> dict[str, str]:
    """Map each name of a network's weights to the first name of the same tensor: the decoder holds the encoder too."""
    first: dict[int, str] = {}
    return {key: first.setdefault(id(value), key) for key, value in network.state_dict(keep_vars=True).items()}


@dataclass(frozen=True, slots=True)
class NnunetBundle(ModelBundle):
    """A bundle of an nnU-Net: of each fold its weights, each tensor once, under ``FOLD/NAME``."""

    configuration: ClassVar[type[BundleConfig]] = NnunetConfig
    largest_weights_bytes: ClassVar[int] = 8 * 2**30

    config: NnunetConfig

    def verify_weights(self) -> None:
        """See that the network takes the weights; raises ModelError."""
        self.fold_weights(build_nnunet(self.config.model))

    def parameters(self) -> int:
        """Count the numbers that were learnt, of all folds; raises ModelError."""
        return sum(p.numel() for p in build_nnunet(self.config.model).parameters()) * len(self.config.model.folds)

    def fold_weights(self, network: nn.Module) -> tuple[Weights, ...]:
        """Return each fold's weights as the network's ``load_state_dict`` takes them.

        Raises
        ------
        ModelError
            They do not fit the network, or are no numbers.
        """
        path, names = self.folder / WEIGHTS_FILE, stored_names(network)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        expected = {f"{fold}/{name}": shapes[name] for fold in self.config.model.folds for name in set(names.values())}
        try:
            refuse_other_shapes(path, expected)
            stored = safetensors.torch.load_file(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(HoldReason.WEIGHTS_UNFIT, path=str(path), said=one_line(error)) from error
        if not all(bool(torch.isfinite(value).all()) for value in stored.values()):
            raise ModelError(HoldReason.WEIGHTS_NOT_FINITE, path=str(path))
        return tuple(
            {name: stored[f"{fold}/{first}"] for name, first in names.items()} for fold in self.config.model.folds
        )
