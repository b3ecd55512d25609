"""How the rate of learning rises and falls."""

from __future__ import annotations

import math


def share(
    done: float, epochs: int, warmup: float = 0.0, schedule: str = "cosine", batch: float = 0.0
) -> float:
    """Return which share of the rate, 0 to 1, is taken for a batch after so many epochs.

    `batch` is the part of an epoch that the batch is: the first of all has a rate above zero. It
    rises in a line for the first `warmup` epochs, and then stays, or falls along a cosine to
    zero (Loshchilov and Hutter 2017, arXiv:1608.03983).

    >>> [round(share(done, 4), 3) for done in (0, 1, 2, 3, 4)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [round(share(done, 4, warmup=2.0, batch=0.5), 3) for done in (0, 0.5, 1, 2, 3, 4)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return min(1.0, (done + batch) / warmup)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / max(epochs - warmup, 1e-12)))
