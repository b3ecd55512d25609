"""Metrics score the weight that an operator reads, whatever it is computed of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from fxprune.metrics import METRICS
from tests.support.computed_weights import WRAPS, X, plain, wrapped
from tests.support.metrics_of import scores

# "slim" scores norms alone, and "reap" experts
APART = {"slim", "reap"}
UNTRAINED = sorted(
    name for name, cls in METRICS.items() if cls.needs != "training" and name not in APART
)


def loss(module: nn.Module, batch: Any) -> Tensor:
    return module(batch).square().sum()


@pytest.mark.parametrize("metric", UNTRAINED)
@pytest.mark.parametrize("name", WRAPS)
def test_as_if_the_weights_were_plain(name: str, metric: str) -> None:
    net = wrapped(name)
    data = {"calibrate": [X, 2 * X], "loss": loss}
    found, wanted = (scores(one, metric, (X,), **data) for one in (net, plain(net)))
    assert len(found) == len(wanted) == 3
    for mine, theirs in zip(found.values(), wanted.values(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=1e-6 * np.abs(theirs).max())
