"""Make the scores of targets comparable with each other."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fxprune.metrics.registry import Scores

LARGE = 1e150
Normalization = Literal["none", "mean", "max", "sum", "l2", "standard"]


def normalized(score: Scores, how: Normalization) -> Scores:
    """Return the scores of one target, `[units]`, on a scale that all targets share.

    >>> normalized(np.array([1.0, 3.0]), "mean").tolist()
    [0.5, 1.5]
    >>> normalized(np.array([1.0, 3.0]), "standard").tolist()
    [-1.0, 1.0]
    """
    if how == "none" or not len(score):
        return score
    largest = float(np.abs(score).max())
    if largest > LARGE:  # whose square no number holds
        score = score / largest
    if how == "standard":
        shifted: Scores = (score - score.mean()) / (float(score.std()) or 1.0)
        return shifted
    size = np.abs(score)
    scales = {
        "mean": float(size.mean()),
        "max": float(size.max()),
        "sum": float(size.sum()),
        "l2": float(np.sqrt((size**2).sum())),
    }
    scaled: Scores = score / (scales[how] or 1.0)
    return scaled
