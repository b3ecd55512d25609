"""Selecting targets: patterns name what a module makes, not what it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune


def network() -> nn.Module:
    """Return two stages and a classifier, each stage reading what the one before makes."""
    model = nn.Sequential()
    model.add_module("first", nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()))
    model.add_module("second", nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU()))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("head", nn.Linear(32, 10))
    return model.eval()


@pytest.mark.parametrize(
    ("target", "widths"),
    [
        ({"include": ["second"]}, (16, 16)),
        ({"include": ["second.*"]}, (16, 16)),
        ({"include": "second.0.weight"}, (16, 16)),
        ({"exclude": ["second"]}, (8, 32)),
        ({"exclude": ["head"]}, (8, 16)),  # pinned anyway: many exclude the classifier by habit
        ({"include": ["*"], "exclude": ["first.0"]}, (16, 16)),
    ],
)
def test_patterns_name_what_makes_the_units(
    target: dict[str, Any], widths: tuple[int, int]
) -> None:
    spec = {"target": target, "objective": {"ratio": 0.5}}
    slim = fxprune.prune(network(), spec, (torch.randn(2, 3, 12, 12),))
    state = slim.state_dict()
    assert (len(state["first.0.weight"]), len(state["second.0.weight"])) == widths


def test_a_pattern_that_names_nothing_is_an_error_with_a_guess() -> None:
    spec = {"target": {"exclude": ["secnd.0"]}, "objective": {"ratio": 0.5}}
    with pytest.raises(fxprune.FxpruneError, match=r"target.exclude.*did you mean .second.0"):
        fxprune.prune(network(), spec, (torch.randn(2, 3, 12, 12),))
