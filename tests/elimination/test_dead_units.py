"""Units that zeros prove dead: not those that a choice by rank still compares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from tests.networks.routing import Mixture, OneHot, Scattered
from tests.support.noise import noise

X = noise(2, 6, 5)


@pytest.mark.parametrize("network", [Mixture, Scattered, OneHot])
def test_an_expert_of_zeros_may_still_be_chosen(network: type[nn.Module]) -> None:
    model = network().eval()
    with torch.no_grad():
        for parameter in (model.up, model.down, model.bias, model.router.weight, model.router.bias):
            parameter[1] = 0
    faster = fxprune.speedup(model, (X,))
    torch.testing.assert_close(faster(X), model(X))
    assert faster.up.shape[0] == 4
