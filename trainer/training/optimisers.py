"""The optimisers, and the parameters that a recipe may give them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from pydantic import Field
from torch import nn

from trainer.training.chosen import Parameters

Weights = Iterable[nn.Parameter]


class Optimiser(Parameters):
    """An optimiser with its parameters."""

    weight_decay: float = Field(default=0.0, ge=0)

    @abstractmethod
    def over(self, weights: Weights) -> torch.optim.Optimizer:
        """Make the optimiser of some weights; its learning rate is set before every step."""


class AdamW(Optimiser):
    """Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019."""

    def over(self, weights: Weights) -> torch.optim.Optimizer:
        """Make it."""
        return torch.optim.AdamW(weights, lr=0.0, weight_decay=self.weight_decay)


class _WithMomentum(Optimiser):
    momentum: float = Field(default=0.0, ge=0, lt=1)


class RMSprop(_WithMomentum):
    """Gradients divided by a moving average of their size."""

    def over(self, weights: Weights) -> torch.optim.Optimizer:
        """Make it."""
        return torch.optim.RMSprop(weights, lr=0.0, weight_decay=self.weight_decay, momentum=self.momentum)


class SGD(_WithMomentum):
    """Stochastic gradient descent."""

    def over(self, weights: Weights) -> torch.optim.Optimizer:
        """Make it."""
        return torch.optim.SGD(weights, lr=0.0, weight_decay=self.weight_decay, momentum=self.momentum)


# As a recipe names them.
OPTIMISERS: Mapping[str, type[Optimiser]] = MappingProxyType({"adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD})
