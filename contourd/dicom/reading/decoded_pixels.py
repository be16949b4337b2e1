"""Pixels that were decoded with their header, kept until a volume holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Decoded:
    """The Hounsfield units of one image; let go as soon as they are copied, for a volume is not held twice.

    Attributes
    ----------
    hu
        int16 (rows, columns); None once they were let go.
    """

    __slots__ = ("hu",)

    def __init__(self, hu: NDArray[np.int16]) -> None:
        self.hu: NDArray[np.int16] | None = hu

    def let_go(self) -> None:
        """Give the memory back."""
        self.hu = None
