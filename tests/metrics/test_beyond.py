"""Weights that are no finite number are named, and large ones are scored in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.allocators import ALLOCATORS
from fxprune.errors import InputError
from fxprune.metrics import METRICS
from fxprune.metrics.normalizing import normalized
from tests.support.noise import noise

X = noise(2, 8)
BATCHES = [noise(4, 8, seed=1), noise(4, 8, seed=2)]
NEW = {"optuna": {"trials": 3}, "simulated-annealing": {"trials": 3}, "threshold": {"adjust": True}}
INF, NAN = float("inf"), float("nan")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def pruned(model: nn.Module, **spec: Any) -> Any:
    given = {"target": "all", "objective": {"macs": 0.5}, **spec}
    if METRICS[given.get("metric", "l2")].needs == "training":
        given["schedule"] = {"name": "one-shot", "warmup": 1}
    dtype = next(model.parameters()).dtype
    batches = [batch.to(dtype) for batch in BATCHES]
    return fxprune.prune(
        model,
        given,
        (X.to(dtype),),
        calibrate=batches,
        loss=lambda module, batch: module(batch).abs().mean(),
        fine_tune=lambda module, step: module(batches[0]).abs().mean().backward(),
        evaluate=lambda module: -float(module(batches[0]).abs().mean().clamp(max=1e30)),
    )


def with_one(value: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = network().to(dtype)
    with torch.no_grad():
        model[3].weight[2, 1] = value
    return model


def scores_channels(metric: str) -> bool:
    return metric not in ("slim", "reap")  # which score norms, and experts


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("metric", METRICS)
def test_no_finite_number_is_named_for_every_metric(metric: str, value: float) -> None:
    with pytest.raises(InputError, match=r"3\.weight.*repair them") as raised:
        pruned(with_one(value), metric=metric)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [INF, NAN])
@pytest.mark.parametrize("goal", ["macs", "ratio"])
@pytest.mark.parametrize("allocation", ALLOCATORS)
def test_no_finite_number_is_named_for_every_allocation(
    allocation: str, goal: str, value: float
) -> None:
    said = rf"3\.weight\[2, 1\] is {value} \(1 in all\); repair them, or exclude the target"
    with pytest.raises(InputError, match=said):
        pruned(with_one(value), allocation=allocation, objective={goal: 0.5})


def test_a_weight_of_a_block_is_named() -> None:
    target = {"kind": "block", "block": [1, 1], "include": "3"}
    with pytest.raises(InputError, match=r"3\.weight\[2, 1\] is nan"):
        pruned(with_one(NAN), target=target, objective={"ratio": 0.5})


def test_what_is_excluded_may_be_what_it_is() -> None:
    model = network()
    with torch.no_grad():
        model[7].weight[2, 1] = NAN
    spec = {"target": {"exclude": ["5", "7"]}, "objective": {"ratio": 0.5}}
    slim: Any = fxprune.prune(model, spec, (X,))
    assert len(slim.get_submodule("3").weight) == 16


@pytest.mark.parametrize("value", [2e25, -3e38])
@pytest.mark.parametrize("metric", [name for name in METRICS if scores_channels(name)])
def test_large_weights_are_scored_by_every_metric(metric: str, value: float) -> None:
    slim = pruned(with_one(value), metric=metric, target="hidden")
    assert slim.report.macs_after <= 0.51 * slim.report.macs_before


@pytest.mark.parametrize("allocation", ALLOCATORS)
def test_large_weights_are_taken_by_every_allocation(allocation: str) -> None:
    given = {"name": allocation, **NEW.get(allocation, {})}
    slim = pruned(with_one(2e25), allocation=given, target="hidden")
    assert slim.report.macs_after <= 0.51 * slim.report.macs_before
    assert float(slim.get_submodule("3").weight.abs().max()) == pytest.approx(2e25)  # it matters


@pytest.mark.parametrize("metric", ["l1", "l2", "linf", "lamp", "fpgm", "gradient", "taylor-fo"])
def test_weights_in_double_are_scored_in_double(metric: str) -> None:
    slim = pruned(with_one(1e100, torch.float64), metric=metric, target="hidden")
    assert slim.report.macs_after <= 0.51 * slim.report.macs_before


def test_scores_that_no_number_holds_are_refused() -> None:
    with pytest.raises(InputError, match=r"score: l2 of .* is beyond any number.*scale them down"):
        pruned(with_one(1e200, torch.float64), metric="l2")


@pytest.mark.parametrize("how", ["mean", "max", "sum", "l2", "standard"])
def test_large_scores_are_normalized_alike(how: Any) -> None:
    scores = np.array([1.0, 2.0, 4.0])
    large = normalized(scores * 1e200, how)
    assert large == pytest.approx(normalized(scores, how), rel=1e-12)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)
        self.register_buffer("mask", torch.full((4, 4), -INF).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu()) + self.mask[3]


def test_a_mask_of_infinities_is_no_fault_of_training() -> None:
    model = Masked().eval()
    slim = fxprune.prune(
        model,
        {"schedule": {"name": "linear", "steps": 2}, "objective": {"macs": 0.5}},
        (X,),
        fine_tune=lambda module, step: None,
    )
    assert torch.equal(slim.get_buffer("mask"), model.get_buffer("mask"))
