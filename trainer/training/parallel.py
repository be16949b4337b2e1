"""Several devices by torchrun: who takes which part of a batch, and who writes.

Without torchrun there is one process, and nothing of torch.distributed is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from contourd.errors import DatasetError
from contourd.model.runtime import choose_device


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among all of them."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, batch_size: int) -> range:
        """Return this process's places in a batch.

        Raises
        ------
        DatasetError
            The batch cannot be shared equally.
        """
        if batch_size % self.count:
            raise DatasetError(f"schedule.batch_size = {batch_size} cannot be shared by {self.count} processes")
        return range(self.rank, batch_size, self.count)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average the gradients of all processes."""
        if self.count == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return float(tensor.item()) / self.count


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join the other processes where torchrun started this one, for as long as the context lasts.

    Raises
    ------
    DeviceError
        The device is absent.
    """
    if not distributed.is_torchelastic_launched():
        yield Ranks(choose_device(device))
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    local = torch.device("cuda", distributed.get_node_local_rank()) if cuda else choose_device("cpu")
    if cuda:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(local, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def gathering(module: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Leave the gradients of all but the last part of a batch to this process alone."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()
