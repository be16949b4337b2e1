"""What a bundle's file of weights says of its tensors, before any of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open


def refuse_other_shapes(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the header of a safetensors file with the tensors that a network has.

    Parameters
    ----------
    expected
        Name -> shape.

    Raises
    ------
    ValueError
        A tensor is missing, is of another shape, or is not the network's.
    """
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors differ, as {wrong[0]}: {found.get(wrong[0])}, not {expected.get(wrong[0])}"
        )
