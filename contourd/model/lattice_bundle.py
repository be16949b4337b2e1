"""A bundle of a network of contourd's own kinds: one that contours on a lattice which contourd lays over the CT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError

from contourd.errors import ModelError
from contourd.model.bundle_config import BundleConfig, ModelBundle
from contourd.model.library import WEIGHTS_FILE
from contourd.model.network import Network
from contourd.model.networks import FIRST_KIND, ConfigOfKind, Kind, build_network
from contourd.model.structures import unpaired
from contourd.model.tensors import refuse_other_shapes
from contourd.model.transforms import PreprocessConfig
from contourd.reasons.catalogue import HoldReason
from contourd.system.logs import one_line


class LatticeConfig(BundleConfig):
    """model.json of a kind of NETWORKS (``contourd.model.networks``).

    kind
        Without it, as in bundles of earlier versions, it is AnatomyNet.
    mirror
        Average with the prediction of the mirror image, paired organs exchanged.
    half_voxel
        Average with the prediction on a lattice that lies half a voxel beside, along each axis.
    """

    kind: Kind = FIRST_KIND
    model: ConfigOfKind
    preprocess: PreprocessConfig
    mirror: bool = False
    half_voxel: bool = False

    def refuse_contradictions(self, path: Path) -> None:
        """Refuse a model of which nobody knows what a mirror image makes of its left organs."""
        alone = unpaired(self.model.structures, self.known_pairs)
        if self.mirror and alone:
            raise ModelError(HoldReason.MODEL_UNPAIRED, path=str(path), organs=list(alone))


@dataclass(frozen=True, slots=True)
class LatticeBundle(ModelBundle):
    """A bundle whose network is one of contourd's own kinds."""

    configuration: ClassVar[type[BundleConfig]] = LatticeConfig

    config: LatticeConfig

    def verify_weights(self) -> None:
        """See that the network takes the weights; raises ModelError."""
        self.network()

    def parameters(self) -> int:
        """Count the numbers that were learnt; raises ModelError."""
        return sum(p.numel() for p in self.network().parameters())

    def network(self) -> Network:
        """Build the network with its weights, in evaluation mode, on the CPU.

        Raises
        ------
        ModelError
            The weights do not fit the configuration.
        """
        path = self.folder / WEIGHTS_FILE
        network = build_network(self.config.kind, self.config.model)
        try:
            refuse_other_shapes(path, {key: tuple(value.shape) for key, value in network.state_dict().items()})
            weights = safetensors.torch.load_file(path)
            network.load_state_dict({key: value.float() for key, value in weights.items()})
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise ModelError(HoldReason.WEIGHTS_UNFIT, path=str(path), said=one_line(error)) from error
        if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
            raise ModelError(HoldReason.WEIGHTS_NOT_FINITE, path=str(path))
        return network.eval()
