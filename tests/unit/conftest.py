"""What tests of several modules train on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training import write_dataset


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def training_set(tmp_path) -> Path:
    return write_dataset(tmp_path / "dataset")
