"""Metrics that learn see the weight that an operator reads, and its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from tests.support.computed_weights import WRAPS, X, plain, wrapped

LEARNED: list[dict[str, Any]] = [{"name": "movement"}, {"name": "admm", "rho": 0.1}]


def still(module: nn.Module, number: int) -> None:
    """Run backward passes and change nothing."""
    for scale in (1.0, 2.0):
        module(scale * X).square().sum().backward()
        module.zero_grad()


@pytest.mark.parametrize("metric", LEARNED, ids=lambda metric: metric["name"])
@pytest.mark.parametrize("name", WRAPS)
def test_as_if_the_weights_were_plain(name: str, metric: dict[str, Any]) -> None:
    """Two steps: the second learns of a module that has been captured anew."""
    spec = {
        "metric": metric,
        "objective": {"ratio": 0.5},
        "allocation": {"round_to": 1},
        "schedule": {"name": "linear", "steps": 2, "warmup": 2},
    }
    net = wrapped(name)
    slim, other = (fxprune.prune(one, spec, (X,), fine_tune=still) for one in (net, plain(net)))
    kept = [one.plan.kept["last.weight"][1].tolist() for one in (slim, other)]
    assert kept[0] == kept[1]
    assert bool((slim(X) - other(X)).abs().max() <= 2e-5 * other(X).abs().max())
    assert not [name for name, _ in slim.named_modules() if "tap" in name]


# the constants of what is standardised are those of one removal, of the weights it had then
REWOUND = [
    (name, steps) for name in WRAPS for steps in (1, 2) if name != "standardised" or steps < 2
]


@pytest.mark.parametrize(("name", "steps"), REWOUND)
def test_rewinding_gives_the_weights_that_were_read(name: str, steps: int) -> None:

    def tune(module: nn.Module, number: int) -> None:
        if number < steps:  # the last weights are those that were rewound
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(1.5 + torch.rand_like(parameter))

    spec = {
        "metric": "random",
        "objective": {"ratio": 0.5},
        "schedule": {"name": "lottery-ticket", "steps": steps},
    }
    net = wrapped(name)
    slim, other = fxprune.prune(net, spec, (X,), fine_tune=tune), plain(net)
    kept = slim.plan.kept
    with torch.no_grad():
        for name, after in (("first", "up"), ("up", "hidden"), ("hidden", "last")):
            gone = torch.ones(len(other.get_parameter(f"{name}.bias")), dtype=torch.bool)
            gone[kept[f"{name}.bias"][0]] = False
            other.get_parameter(f"{after}.weight").transpose(0, int(after != "up"))[gone] = 0.0
    assert bool((slim(X) - other(X)).abs().max() <= 2e-5 * other(X).abs().max())
