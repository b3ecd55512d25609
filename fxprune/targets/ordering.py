"""Put scores in ascending order, quickly where there are millions of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MANY = 1 << 16


def ascending(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the places of scores from the lowest to the highest, equal ones in their order.

    Many scores of single precision are sorted by the halves of their bits, which takes linear time.

    >>> ascending(np.array([2.0, -1.0, 2.0, 0.0])).tolist()
    [1, 3, 0, 2]
    """
    if len(scores) < MANY:
        return np.argsort(scores, kind="stable")
    with np.errstate(over="ignore", invalid="ignore"):
        single = scores.astype(np.float32)
    if not np.array_equal(single, scores):
        return np.argsort(scores, kind="stable")
    single += 0.0  # -0 and 0 are equal
    bits = single.view(np.uint32)
    np.bitwise_xor(bits, np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(1 << 31)), out=bits)
    low = np.argsort(bits.astype(np.uint16), kind="stable")  # the lower half: radix sort
    return low[np.argsort((bits >> 16).astype(np.uint16)[low], kind="stable")]
