"""Agreement of two masks on the CT's own grid."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def dice(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of one shape; NaN where both are empty, 0 where one is."""
    total = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / total if total else math.nan
