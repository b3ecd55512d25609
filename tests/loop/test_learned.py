"""Penalties of metrics that learn, against loops that do the same by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fxprune
from fxprune.capture import capture
from fxprune.metrics import METRICS, make
from tests.loop.training_loops import (
    LOOPS,
    NAME,
    backward,
    plain,
    same,
    spec,
    watched,
)
from tests.support.metrics_of import scores
from tests.support.small_nets import Residual, X

# ---- slim ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_slim_penalises_the_scales_once_a_step(loop: Any) -> None:
    model = Residual()
    twin = copy.deepcopy(model)

    def before(module: Any) -> None:
        for norm in (module.norm, module.other):
            norm.weight.grad += 0.1 * norm.weight.detach().sign()

    watched(model, make("slim", {"penalty": 0.1}), loop, {})
    loop(twin, backward, before)
    same(model, twin)
    other = copy.deepcopy(twin)
    loop(other)
    assert not torch.equal(other.norm.weight, twin.norm.weight)


def test_slim_without_a_penalty_needs_and_watches_nothing() -> None:
    graph = capture(Residual().eval(), X).module
    assert make("slim", {}).needs == METRICS["slim"].needs == "nothing"
    assert make("slim", {}).watched(graph) == []
    assert make("slim", {"penalty": 0.1}).needs == "training"
    assert METRICS["slim"].needs == "nothing"
    assert make("slim", {"penalty": 0.1}).watched(graph) == ["norm.weight", "other.weight"]


# ---- ADMM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_admm_alternates(loop: Any) -> None:
    model, keep = Residual(), torch.ones(6, 3, 3, 3, dtype=torch.bool)
    keep[[1, 4]] = False
    twin, metric, learned = copy.deepcopy(model), make("admm", {"rho": 0.5}), dict[str, Tensor]()
    z = u = None

    def before(module: Any) -> None:
        if z is not None:
            w = module.stem.weight
            w.grad += 0.5 * (w.detach() - z + u)

    for _ in range(3):
        watched(model, metric, loop, learned)
        for name, p in model.named_parameters():
            mine = keep if name == "stem.weight" else torch.ones_like(p, dtype=torch.bool)
            metric.settle(name, p.detach(), mine, learned)
        loop(twin, backward, before)
        w = twin.stem.weight.detach()
        z, u = (w * keep, 0 * w) if z is None else ((w + u) * keep, w + u - (w + u) * keep)
    same(model, twin)
    assert learned.keys() == {"admm-z:stem.weight", "admm-u:stem.weight"}
    torch.testing.assert_close(learned["admm-z:stem.weight"], z)
    torch.testing.assert_close(learned["admm-u:stem.weight"], u)
    assert u is not None
    assert u.abs().max() > 0
    with torch.no_grad():
        whole = copy.deepcopy(model)
        whole.stem.weight += u
    found = scores(model, "admm", X, learned=learned)[NAME]
    np.testing.assert_allclose(found, scores(whole, "l2", X)[NAME], rtol=1e-5)
    assert not np.allclose(found, scores(model, "l2", X)[NAME])


def test_admm_drives_what_will_leave_towards_zero() -> None:
    def left(rho: float) -> float:
        """Return the share of the smaller channels in the energy of the stem after a warm-up."""
        seen: list[float] = []

        def tune(module: Any, step: int) -> None:
            plain(module)
            energy = module.stem.weight.detach().square().sum((1, 2, 3)).sort().values
            seen.append(float(energy[: len(energy) // 2].sum() / energy.sum()))

        torch.manual_seed(0)
        metric = {"name": "admm", "rho": rho}
        fxprune.prune(Residual(), spec(metric, warmup=6), X, fine_tune=tune)
        return seen[5]

    assert left(2.0) < left(1e-6) / 10
