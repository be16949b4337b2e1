"""What every network is that a bundle can hold: a configuration, and a map from a CT crop to a logit for each organ.

The kinds that there are stand in ``contourd.model.networks``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

from torch import Tensor, nn

from contourd.model.bundle_config import OrgansConfig


class NetworkConfig(OrgansConfig):
    """What fixes a network's layers and so its weights: ``model`` in model.json. A subclass adds what its kind has.

    Its structures stand in channel order; channel 0 is the background and has no name.
    """

    @property
    def classes(self) -> int:
        """Organs plus the background."""
        return len(self.structures) + 1

    @property
    def supervised_channels(self) -> tuple[int, ...]:
        """Channels of what ``Network.decoded`` returns, for deep supervision; empty: the kind has none."""
        return ()

    def in_words(self) -> str:
        """Describe the network for the model card; empty: the card names the kind alone."""
        return ""


class Network(nn.Module):
    """Map a CT crop (B, 1, D, H, W) to logits (B, C, D, H, W), C = organs + 1; each side is 16 voxels or more.

    A subclass has ``forward``. Where its last layers are local, it can also answer in two steps, ``decoded`` and
    ``at_full_resolution``: runtimes call them so, the second slab by slab (``contourd.model.slabs``).

    Attributes
    ----------
    configuration
        What ``model`` in model.json is read by.
    stride
        1 or 2: voxels of the image along each side of a voxel of the features that ``decoded`` returns last.
    peak_bytes_per_voxel
        Runtime -> memory of a run for each voxel of the crop, at most; a crop for which there is less is not run. Of
        AnatomyNet 186 and 153 were measured (paper's channels, ten classes), and a third is to spare. A kind that
        needs more says so.
    organ_weights
        Prefixes of the weights whose first axis is the classes: what training from another model takes organ by organ.
        Without them, that model must have the same organs.
    """

    configuration: ClassVar[type[NetworkConfig]] = NetworkConfig
    stride: ClassVar[int] = 1
    peak_bytes_per_voxel: ClassVar[Mapping[str, int]] = MappingProxyType({"torch": 250, "openvino": 205})
    organ_weights: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    def decoded(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the features that the last layers begin with, and before them any that deep supervision weighs."""
        return (self(image),)

    def at_full_resolution(self, features: Tensor, image: Tensor) -> Tensor:  # noqa: ARG002 (for those that need it)
        """Map the last features and the image (B, 1, D, H, W) to logits; what is over 2 voxels away must not count."""
        return features

    def for_inference(self) -> Self:
        """Return a copy that gives the same answer but for rounding, and may be faster."""
        return copy.deepcopy(self)
